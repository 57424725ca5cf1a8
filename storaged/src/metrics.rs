//! Counters and gauges in the Prometheus text format.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::record::Rows;
use crate::store::counts;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    imports: AtomicU64,
    failed_imports: AtomicU64,
}

impl Counters {
    pub(crate) fn imported<T, E>(&self, result: &Result<T, E>) {
        let counter = if result.is_ok() {
            &self.imports
        } else {
            &self.failed_imports
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends all metrics of the subsystem.
pub(crate) fn write(out: &mut String, rows: &Rows, counters: &Counters) {
    family(
        out,
        "hawser_storage_objects",
        "gauge",
        "Rows of the metadata database by kind.",
    );
    for (kind, count) in counts(rows) {
        out.push_str(&format!(
            "hawser_storage_objects{{kind=\"{kind}\"}} {count}\n"
        ));
    }
    family(
        out,
        "hawser_layer_bytes",
        "gauge",
        "Bytes of file content in committed layers.",
    );
    let bytes: u64 = rows.layers.values().map(|layer| layer.size).sum();
    out.push_str(&format!("hawser_layer_bytes {bytes}\n"));
    family(
        out,
        "hawser_layer_imports_total",
        "counter",
        "Layer streams since the start by result.",
    );
    for (result, counter) in [
        ("committed", &counters.imports),
        ("failed", &counters.failed_imports),
    ] {
        let count = counter.load(Ordering::Relaxed);
        out.push_str(&format!(
            "hawser_layer_imports_total{{result=\"{result}\"}} {count}\n"
        ));
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}
