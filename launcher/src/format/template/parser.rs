//! Builds the tree of a template from its pieces.

use super::TemplateError;
use super::functions;
use super::lexer::{self, Piece, Token, TokenKind};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If(Block),
    With(Block),
    Range(Block),
    Break,
    Continue,
}

/// A control structure: what is tested or walked, and its two bodies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) pipeline: Pipeline,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that take the value; `range` may have two.
    pub(super) variables: Vec<String>,
    /// `:=` rather than `=`.
    pub(super) declares: bool,
    /// Each gets the value of the one before it as its last argument.
    pub(super) commands: Vec<Command>,
}

/// A function or a value, and arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub(super) operand: Operand,
    pub(super) arguments: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// The fields behind it: `.A.B`, `$x.A`, `(…).A`.
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(serde_json::Value),
    Function(String),
    Pipeline(Box<Pipeline>),
}

/// How deep control structures and parentheses may nest: the evaluator recurses.
const MAX_DEPTH: usize = 64;

pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut pieces = lexer::split(source)?.into_iter();
    let (nodes, end) = parse_nodes(&mut pieces, 0)?;
    match end {
        End::Source => Ok(nodes),
        End::Block => Err(TemplateError::Unexpected("end".to_owned())),
        End::Else(_) => Err(TemplateError::Unexpected("else".to_owned())),
    }
}

/// What stopped a list of nodes.
enum End {
    Source,
    Block,
    /// With the rest of its action, `if …` in `else if …`.
    Else(Vec<Token>),
}

type Pieces = std::vec::IntoIter<Piece>;

fn parse_nodes(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, End), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let keyword = match tokens.first().map(|token| &token.kind) {
            Some(TokenKind::Word(word)) => word.as_str(),
            _ => "",
        };
        match keyword {
            "if" | "with" | "range" => {
                let block = parse_block(&tokens[1..], pieces, depth)?;
                nodes.push(match keyword {
                    "if" => Node::If(block),
                    "with" => Node::With(block),
                    _ => Node::Range(block),
                });
            }
            "end" => return Ok((nodes, End::Block)),
            "else" => return Ok((nodes, End::Else(tokens[1..].to_vec()))),
            "break" => nodes.push(Node::Break),
            "continue" => nodes.push(Node::Continue),
            _ => nodes.push(Node::Print(parse_pipeline(&tokens)?)),
        }
    }
    Ok((nodes, End::Source))
}

fn parse_block(
    tokens: &[Token],
    pieces: &mut Pieces,
    depth: usize,
) -> Result<Block, TemplateError> {
    let pipeline = parse_pipeline(tokens)?;
    let (body, end) = parse_nodes(pieces, depth + 1)?;
    let otherwise = match end {
        End::Block => Vec::new(),
        End::Source => return Err(TemplateError::Unclosed("block: {{end}} is missing")),
        End::Else(rest) => parse_else(&rest, pieces, depth + 1)?,
    };
    Ok(Block {
        pipeline,
        body,
        otherwise,
    })
}

fn parse_else(
    rest: &[Token],
    pieces: &mut Pieces,
    depth: usize,
) -> Result<Vec<Node>, TemplateError> {
    if let Some(first) = rest.first() {
        let TokenKind::Word(word) = &first.kind else {
            return Err(TemplateError::Unexpected("else".to_owned()));
        };
        let block = parse_block(&rest[1..], pieces, depth)?;
        return match word.as_str() {
            "if" => Ok(vec![Node::If(block)]),
            "with" => Ok(vec![Node::With(block)]),
            _ => Err(TemplateError::Unexpected(word.clone())),
        };
    }
    match parse_nodes(pieces, depth)? {
        (nodes, End::Block) => Ok(nodes),
        (_, End::Source) => Err(TemplateError::Unclosed("block: {{end}} is missing")),
        (_, End::Else(_)) => Err(TemplateError::Unexpected("else".to_owned())),
    }
}

fn parse_pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut reader = Reader { tokens, depth: 0 };
    let pipeline = reader.pipeline()?;
    match reader.tokens.first() {
        None => Ok(pipeline),
        Some(token) => Err(TemplateError::Unexpected(describe(&token.kind))),
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Reader<'_> {
    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let (variables, declares) = self.declaration();
        let mut commands = vec![self.command()?];
        while self.eat(&TokenKind::Pipe) {
            commands.push(self.command()?);
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    /// `$x :=`, `$x =`, `$k, $v :=`; nothing when the pipeline starts otherwise.
    fn declaration(&mut self) -> (Vec<String>, bool) {
        let kinds: Vec<&TokenKind> = self
            .tokens
            .iter()
            .take(4)
            .map(|token| &token.kind)
            .collect();
        let (variables, operator) = match kinds.as_slice() {
            [
                TokenKind::Variable(a),
                TokenKind::Comma,
                TokenKind::Variable(b),
                operator,
            ] => (vec![a.clone(), b.clone()], *operator),
            [TokenKind::Variable(a), operator, ..] => (vec![a.clone()], *operator),
            _ => return (Vec::new(), false),
        };
        if !matches!(operator, TokenKind::Declare | TokenKind::Assign) {
            return (Vec::new(), false);
        }
        let declares = *operator == TokenKind::Declare;
        self.tokens = &self.tokens[variables.len() * 2..];
        (variables, declares)
    }

    fn command(&mut self) -> Result<Command, TemplateError> {
        let operand = self.operand()?;
        let mut arguments = Vec::new();
        while self
            .tokens
            .first()
            .is_some_and(|token| !matches!(token.kind, TokenKind::Pipe | TokenKind::Close))
        {
            arguments.push(self.operand()?);
        }
        Ok(Command { operand, arguments })
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err(TemplateError::Missing);
        };
        self.tokens = rest;
        let mut fields = Vec::new();
        let base = match &token.kind {
            TokenKind::Dot => Base::Dot,
            TokenKind::Field(name) => {
                fields.push(name.clone());
                Base::Dot
            }
            TokenKind::Variable(name) => Base::Variable(name.clone()),
            TokenKind::Text(text) => Base::Literal(text.as_str().into()),
            TokenKind::Number(number) => Base::Literal(number.clone().into()),
            TokenKind::Word(word) => word_base(word)?,
            TokenKind::Open => Base::Pipeline(Box::new(self.parenthesis()?)),
            kind => return Err(TemplateError::Unexpected(describe(kind))),
        };
        while let Some(Token {
            kind: TokenKind::Field(name),
            spaced: false,
        }) = self.tokens.first()
        {
            fields.push(name.clone());
            self.tokens = &self.tokens[1..];
        }
        Ok(Operand { base, fields })
    }

    fn parenthesis(&mut self) -> Result<Pipeline, TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        let pipeline = self.pipeline()?;
        self.depth -= 1;
        if self.eat(&TokenKind::Close) {
            Ok(pipeline)
        } else {
            Err(TemplateError::Unclosed("parenthesis"))
        }
    }

    fn eat(&mut self, kind: &TokenKind) -> bool {
        let found = self.tokens.first().is_some_and(|token| token.kind == *kind);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }
}

fn word_base(word: &str) -> Result<Base, TemplateError> {
    match word {
        "true" => Ok(Base::Literal(true.into())),
        "false" => Ok(Base::Literal(false.into())),
        "nil" => Ok(Base::Literal(serde_json::Value::Null)),
        _ if functions::is_known(word) => Ok(Base::Function(word.to_owned())),
        _ => Err(TemplateError::UnknownFunction(word.to_owned())),
    }
}

fn describe(kind: &TokenKind) -> String {
    match kind {
        TokenKind::Word(text) | TokenKind::Text(text) => text.clone(),
        TokenKind::Field(name) => format!(".{name}"),
        TokenKind::Variable(name) => format!("${name}"),
        TokenKind::Number(number) => number.to_string(),
        TokenKind::Dot => ".".to_owned(),
        TokenKind::Open => "(".to_owned(),
        TokenKind::Close => ")".to_owned(),
        TokenKind::Pipe => "|".to_owned(),
        TokenKind::Declare => ":=".to_owned(),
        TokenKind::Assign => "=".to_owned(),
        TokenKind::Comma => ",".to_owned(),
    }
}
