//! Executes a template.

use serde_json::{Map, Value};

use super::TemplateError;
use super::functions;
use super::parser::{Base, Block, Command, Node, Operand, Pipeline};
use super::print;

pub(super) fn render(
    nodes: &[Node],
    data: &Value,
    labels: &Map<String, Value>,
) -> Result<String, TemplateError> {
    let mut evaluator = Evaluator {
        labels,
        variables: vec![(String::new(), data.clone())],
        output: String::new(),
    };
    evaluator.nodes(nodes, data)?;
    Ok(evaluator.output)
}

/// Whether the nodes ran to their end.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Evaluator<'a> {
    labels: &'a Map<String, Value>,
    /// Innermost last; the first is `$`.
    variables: Vec<(String, Value)>,
    output: String,
}

impl Evaluator<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::On
                }
                Node::Print(pipeline) => {
                    self.print(pipeline, dot)?;
                    Flow::On
                }
                Node::If(block) => self.choose(block, dot, false)?,
                Node::With(block) => self.choose(block, dot, true)?,
                Node::Range(block) => self.range(block, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn print(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<(), TemplateError> {
        let value = self.pipeline(pipeline, dot)?;
        if pipeline.variables.is_empty() {
            self.output.push_str(&print::plain(&value));
            return Ok(());
        }
        self.set(pipeline, &[value])
    }

    fn set(&mut self, pipeline: &Pipeline, values: &[Value]) -> Result<(), TemplateError> {
        for (name, value) in pipeline.variables.iter().zip(values) {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
                continue;
            }
            let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
            match found {
                Some((_, old)) => *old = value.clone(),
                None => return Err(TemplateError::UndefinedVariable(name.clone())),
            }
        }
        Ok(())
    }

    /// `if`, and `with`, which moves the dot.
    fn choose(&mut self, block: &Block, dot: &Value, moves: bool) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        let value = self.pipeline(&block.pipeline, dot)?;
        self.set(&block.pipeline, std::slice::from_ref(&value))?;
        let flow = if is_true(&value) {
            self.nodes(&block.body, if moves { &value } else { dot })
        } else {
            self.nodes(&block.otherwise, dot)
        };
        self.variables.truncate(scope);
        flow
    }

    fn range(&mut self, block: &Block, dot: &Value) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        let value = self.pipeline(&block.pipeline, dot)?;
        let items = items(&value)?;
        if items.is_empty() {
            return self.nodes(&block.otherwise, dot);
        }
        for (key, item) in items {
            match block.pipeline.variables.len() {
                0 => {}
                1 => self.set(&block.pipeline, std::slice::from_ref(&item))?,
                _ => self.set(&block.pipeline, &[key, item.clone()])?,
            }
            let flow = self.nodes(&block.body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        match &command.operand.base {
            Base::Function(name) if matches!(name.as_str(), "and" | "or") => {
                self.first_decisive(name == "or", &command.arguments, dot, piped)
            }
            Base::Function(name) => {
                let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
                for argument in &command.arguments {
                    arguments.push(self.operand(argument, dot)?);
                }
                arguments.extend(piped);
                let value = functions::call(name, &arguments)?;
                walk(&value, &command.operand.fields).cloned()
            }
            Base::Dot if command.operand.fields == ["Label"] && !command.arguments.is_empty() => {
                let key = self.operand(&command.arguments[0], dot)?;
                Ok(self
                    .labels
                    .get(key.as_str().unwrap_or_default())
                    .cloned()
                    .unwrap_or_else(|| "".into()))
            }
            _ if command.arguments.is_empty() && piped.is_none() => {
                self.operand(&command.operand, dot)
            }
            _ => Err(TemplateError::NotAFunction(subject(&command.operand))),
        }
    }

    /// `or` is its first true argument, `and` its first false one, else the last; what comes after
    /// is not evaluated.
    fn first_decisive(
        &mut self,
        wanted: bool,
        arguments: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let mut last = Value::Null;
        for argument in arguments {
            last = self.operand(argument, dot)?;
            if is_true(&last) == wanted {
                return Ok(last);
            }
        }
        Ok(piped.unwrap_or(last))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let base = match &operand.base {
            Base::Dot => return walk(dot, &operand.fields).cloned(),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                let (_, value) =
                    found.ok_or_else(|| TemplateError::UndefinedVariable(name.clone()))?;
                return walk(value, &operand.fields).cloned();
            }
            Base::Literal(value) => value.clone(),
            Base::Function(name) => functions::call(name, &[])?,
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
        };
        walk(&base, &operand.fields).cloned()
    }
}

fn subject(operand: &Operand) -> String {
    match &operand.base {
        Base::Literal(value) => print::plain(value),
        Base::Variable(name) => format!("${name}"),
        _ => format!(".{}", operand.fields.join(".")),
    }
}

const NOTHING: &Value = &Value::Null;

fn walk<'v>(value: &'v Value, fields: &[String]) -> Result<&'v Value, TemplateError> {
    fields
        .iter()
        .try_fold(value, |value, name| field(value, name))
}

fn field<'v>(value: &'v Value, name: &str) -> Result<&'v Value, TemplateError> {
    let missing = || TemplateError::NoField {
        field: name.to_owned(),
        value: kind_of(value),
    };
    let Value::Object(members) = value else {
        return Err(missing());
    };
    if let Some(found) = members.get(name) {
        return Ok(found);
    }
    let same_letters = members
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    match same_letters {
        Some((_, found)) if is_capital(name) => Ok(found),
        _ if is_capital(name) => Err(missing()),
        _ => Ok(NOTHING),
    }
}

fn is_capital(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

fn items(value: &Value) -> Result<Vec<(Value, Value)>, TemplateError> {
    match value {
        Value::Array(values) => Ok(values
            .iter()
            .enumerate()
            .map(|(at, value)| (at.into(), value.clone()))
            .collect()),
        Value::Object(members) => Ok(members
            .iter()
            .map(|(key, value)| (key.as_str().into(), value.clone()))
            .collect()),
        Value::Null => Ok(Vec::new()),
        other => Err(TemplateError::NotIterable(kind_of(other))),
    }
}

pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "this object",
    }
}
