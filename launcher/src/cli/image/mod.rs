//! `hawser image …`.

pub mod archive;
pub mod config;
pub mod history;
pub mod import;
pub mod inspect;
pub mod list;
pub mod load;
pub mod prune;
pub mod remove;
pub mod save;
pub mod tag;
