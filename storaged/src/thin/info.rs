//! What `hawser info` shows of a pool, in Docker's words.

use super::Pool;
use crate::model::thin::{self, base_key};

impl Pool {
    /// Rows of `info`, in order, as Docker has them.
    pub(crate) fn describe(&self) -> Vec<(String, String)> {
        let rows = self.store.rows();
        let base = rows.devices.get(&base_key()).map(|device| device.bytes);
        let filesystem = rows
            .pool
            .as_ref()
            .and_then(|pool| Some(pool.base.as_ref()?.filesystem.name()));
        drop(rows);
        let block = self.mapper.block();
        let mut lines = vec![
            ("Pool Name", self.mapper.name().to_owned()),
            ("Pool Blocksize", human(block)),
            ("Base Device Size", human(base.unwrap_or_default())),
            (
                "Backing Filesystem",
                filesystem.unwrap_or_default().to_owned(),
            ),
            // Nodes are the kernel's own, and nobody has to wait for a udev.
            ("Udev Sync Supported", "true".to_owned()),
        ];
        lines.extend(self.mapper.places());
        match self.mapper.status() {
            Ok(status) => {
                let data = status.data.times(block);
                let metadata = status.metadata.times(thin::METADATA_BLOCK);
                let keep = data.total * self.options.min_free / 100;
                lines.extend([
                    ("Data Space Used", human(data.used)),
                    ("Data Space Total", human(data.total)),
                    ("Data Space Available", human(data.free())),
                    ("Metadata Space Used", human(metadata.used)),
                    ("Metadata Space Total", human(metadata.total)),
                    ("Metadata Space Available", human(metadata.free())),
                    ("Thin Pool Minimum Free Space", human(keep)),
                    ("Pool Mode", status.mode.name().to_owned()),
                ]);
            }
            Err(error) => lines.push(("Pool Mode", format!("unknown ({error})"))),
        }
        lines.extend([
            (
                "Deferred Removal Enabled",
                self.options.deferred_removal.to_string(),
            ),
            (
                "Deferred Deletion Enabled",
                self.options.deferred_deletion.to_string(),
            ),
        ]);
        lines
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }
}

/// Four digits and a decimal unit, as in `docker info`.
fn human(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].iter();
    let mut unit = units.next();
    while size >= 1000.0 {
        let Some(next) = units.next() else { break };
        size /= 1000.0;
        unit = Some(next);
    }
    let decimals = match size {
        _ if size < 10.0 => 3,
        _ if size < 100.0 => 2,
        _ => 1,
    };
    let text = format!("{size:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{}", unit.unwrap_or(&"B"))
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_written_as_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (512, "512B"),
            (65_536, "65.54kB"),
            (524_288, "524.3kB"),
            (180_500, "180.5kB"),
            (25_000_000_000, "25GB"),
            (23_750_000_000, "23.75GB"),
            (10_737_418_240, "10.74GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
