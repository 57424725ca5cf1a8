//! Listings: a table with a header, or one rendered template a row.

use serde_json::{Map, Value};

use super::template::{Template, TemplateError};

/// One thing of a listing, by column.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub cells: Map<String, Value>,
    /// What `{{.Label "key"}}` looks up.
    pub labels: Map<String, Value>,
}

impl Row {
    pub fn new<const N: usize>(cells: [(&str, Value); N]) -> Self {
        Self {
            cells: cells
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            labels: Map::new(),
        }
    }

    /// Adds the column `Labels` and what [`Row::labels`] answers.
    #[must_use]
    pub fn with_labels<'a>(
        mut self,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        self.labels = labels
            .into_iter()
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect();
        let texts: Vec<String> = self
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        self.cells
            .insert("Labels".to_owned(), texts.join(",").into());
        self
    }
}

/// What a listing can show.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Every column's name in templates and its header.
    pub headers: &'static [(&'static str, &'static str)],
    /// The columns of the plain table, as a template without `table`.
    pub default: &'static str,
}

const TABLE: &str = "table";

/// Lists `rows` as `format` asks: nothing or `table` for the plain table, `table TEMPLATE`, `json`,
/// or a template.
///
/// # Errors
/// [`TemplateError`] of the user's template.
pub fn list(columns: &Columns, rows: &[Row], format: &str) -> Result<String, TemplateError> {
    let format = format.trim();
    if format == "json" {
        return plain("{{json .}}", rows);
    }
    // A shell hands on `\t` as two characters.
    let format = format.replace("\\t", "\t").replace("\\n", "\n");
    match format.strip_prefix(TABLE) {
        _ if format.is_empty() => table(columns, rows, columns.default),
        Some("") => table(columns, rows, columns.default),
        Some(template) if template.starts_with([' ', '\t']) => {
            table(columns, rows, template.trim_start())
        }
        _ => plain(&format, rows),
    }
}

fn plain(template: &str, rows: &[Row]) -> Result<String, TemplateError> {
    let template = Template::parse(template)?;
    let mut output = String::new();
    for row in rows {
        output.push_str(&template.render_row(&Value::Object(row.cells.clone()), &row.labels)?);
        output.push('\n');
    }
    Ok(output)
}

fn table(columns: &Columns, rows: &[Row], template: &str) -> Result<String, TemplateError> {
    let template = Template::parse(template)?;
    let header: Map<String, Value> = columns
        .headers
        .iter()
        .map(|(name, header)| ((*name).to_owned(), (*header).into()))
        .collect();
    let mut lines = vec![template.render(&Value::Object(header))?];
    for row in rows {
        lines.push(template.render_row(&Value::Object(row.cells.clone()), &row.labels)?);
    }
    Ok(aligned(&lines))
}

/// Least width of a column and the space after its longest cell, as Docker's tables have.
const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Aligns the cells of `lines`, which tabs part. The last cell of a line is not padded.
pub fn aligned(lines: &[String]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        for (at, cell) in cells[..cells.len() - 1].iter().enumerate() {
            let width = (cell.chars().count() + PADDING).max(MIN_WIDTH);
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut output = String::new();
    for line in lines {
        let mut cells = line.split('\t').zip(0..).peekable();
        while let Some((cell, at)) = cells.next() {
            output.push_str(cell);
            if cells.peek().is_some() {
                let width = widths.get(at).copied().unwrap_or_default();
                let blank = width - cell.chars().count();
                output.extend(std::iter::repeat_n(' ', blank));
            }
        }
        output.push('\n');
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        headers: &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Labels", "LABELS")],
        default: "{{.ID}}\t{{.Name}}",
    };

    fn rows() -> Vec<Row> {
        let labels = [("tier".to_owned(), "front".to_owned())];
        vec![
            Row::new([("ID", "0123456789ab".into()), ("Name", "bridge".into())])
                .with_labels(labels.iter().map(|(key, value)| (key, value))),
            Row::new([("ID", "é".into()), ("Name", "n".into())]).with_labels([]),
        ]
    }

    fn listed(format: &str) -> String {
        list(&COLUMNS, &rows(), format).unwrap()
    }

    #[test]
    fn columns_line_up() {
        let expected = "NETWORK ID     NAME\n0123456789ab   bridge\né              n\n";
        assert_eq!(listed(""), expected);
        assert_eq!(listed("table"), expected);
    }

    #[test]
    fn a_table_of_ones_own_has_a_header() {
        let expected = "NAME      NETWORK ID\nbridge    0123456789ab\nn         é\n";
        assert_eq!(listed("table {{.Name}}\\t{{.ID}}"), expected);
    }

    #[test]
    fn a_template_has_no_header() {
        assert_eq!(
            listed("{{.Name}} {{.Label \"tier\"}}|"),
            "bridge front|\nn |\n"
        );
        assert_eq!(
            listed("json"),
            "{\"ID\":\"0123456789ab\",\"Labels\":\"tier=front\",\"Name\":\"bridge\"}\n\
             {\"ID\":\"é\",\"Labels\":\"\",\"Name\":\"n\"}\n"
        );
    }

    #[test]
    fn an_unknown_column_is_an_error() {
        assert!(list(&COLUMNS, &rows(), "{{.Nope}}").is_err());
        assert!(list(&COLUMNS, &[], "table {{.Nope}}").is_err());
    }
}
