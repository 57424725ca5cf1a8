//! Go's `text/template`, as far as `--format` uses it, over JSON values.
//!
//! What is there: fields, variables, `if`, `else`, `with`, `range`, `break`, `continue`,
//! pipelines, trim marks, comments, the comparison, `index`, `len` and print functions, and
//! Docker's own `json`, `join`, `split`, `title`, `upper`, `lower`, `pad` and `truncate`. What is
//! not: `define` and its kin, which nobody writes on a command line.
//!
//! Go knows types and JSON does not, which shows in three places. A field is found whatever its
//! case, for Go programs know `Id` as `ID`. A missing field whose name starts with a capital is an
//! error, as it is for a Go struct; any other is `<no value>`, as it is for a map of labels. And
//! `index` of a missing key is the empty text, the zero value of such a map.

mod eval;
mod functions;
mod lexer;
mod parser;
mod print;

use serde_json::{Map, Value};

/// Why a template cannot be read or executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template parsing error: unclosed {0}")]
    Unclosed(&'static str),
    #[error("template parsing error: unexpected character {0:?}")]
    UnexpectedCharacter(char),
    #[error("template parsing error: bad number {0:?}")]
    Number(String),
    #[error("template parsing error: unknown escape \\{0}")]
    Escape(char),
    #[error("template parsing error: unexpected {0:?}")]
    Unexpected(String),
    #[error("template parsing error: missing value for command")]
    Missing,
    #[error("template parsing error: function {0:?} not defined")]
    UnknownFunction(String),
    #[error("template parsing error: nested too deep")]
    TooDeep,
    #[error("template: no field {field:?} in {value}")]
    NoField { field: String, value: &'static str },
    #[error("template: undefined variable ${0}")]
    UndefinedVariable(String),
    #[error("template: {0} takes no arguments")]
    NotAFunction(String),
    #[error("template: range cannot iterate over {0}")]
    NotIterable(&'static str),
    #[error("template: {function}: {reason}")]
    Function { function: String, reason: String },
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parser::Node>,
}

impl Template {
    /// # Errors
    /// [`TemplateError`], worded for the user.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            nodes: parser::parse(source)?,
        })
    }

    /// # Errors
    /// [`TemplateError`], worded for the user.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        self.render_row(data, &Map::new())
    }

    /// As [`Template::render`]; `labels` are what `{{.Label "key"}}` looks up.
    ///
    /// # Errors
    /// [`TemplateError`], worded for the user.
    pub fn render_row(
        &self,
        data: &Value,
        labels: &Map<String, Value>,
    ) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, labels)
    }
}

#[cfg(test)]
mod tests;
