//! How much is measured: the defaults are the sizes of the figures to reach, smaller ones show
//! that everything runs.

use clap::Args;

#[derive(Debug, Clone, Args)]
pub(crate) struct Sizes {
    /// Repeats of every row; each row's own number when absent.
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Endpoints that exist already.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "0,100,1000"
    )]
    pub(crate) endpoints: Vec<u32>,
    /// Ports that are published already, and ports of the range to publish.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) ports: u16,
    /// Ports that are published beside and with the measured one, in rising order.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1,1000,10000"
    )]
    pub(crate) published: Vec<u16>,
    /// Seconds of load in the rows that look for lost connections.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) soak: u64,
    /// Containers with many published ports each.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) crowd: u32,
    /// Names the name servers know.
    #[arg(long = "zone", value_name = "N", default_value_t = 500)]
    pub(crate) zone: u32,
    /// MiB of an image to import.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) image_mib: u32,
    /// Volumes whose sizes are asked for.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) volumes: u32,
    /// MiB of the volume that is copied.
    #[arg(long, value_name = "N", default_value_t = 10_240)]
    pub(crate) volume_mib: u32,
    /// Nodes of a cluster.
    #[arg(
        long = "nodes",
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10,100,1000"
    )]
    pub(crate) nodes: Vec<u32>,
    /// Attaches of a storm.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) storm: u32,
}

impl Sizes {
    /// Repeats of a row that would have `usual`.
    pub(crate) fn runs(&self, usual: usize) -> usize {
        self.runs.unwrap_or(usual).max(1)
    }
}
