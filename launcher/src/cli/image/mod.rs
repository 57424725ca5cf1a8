//! `hawser image …`.

pub mod archive;
pub mod config;
pub mod import;
pub mod inspect;
pub mod list;
pub mod load;
pub mod remove;
pub mod tag;
