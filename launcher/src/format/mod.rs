//! How things are shown: Go templates, tables, ages and sizes.

pub mod human;
pub mod table;
pub mod template;
