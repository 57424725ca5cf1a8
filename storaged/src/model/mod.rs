//! The pure part: rows, names, paths and decisions. No clock, no I/O.

pub(crate) mod chain;
pub(crate) mod gc;
pub(crate) mod layout;
pub(crate) mod record;
pub(crate) mod size;
pub(crate) mod subordinate;
pub(crate) mod thin;
pub(crate) mod thin_options;
pub(crate) mod trash;
pub(crate) mod volume_option;
pub(crate) mod volume_spec;
