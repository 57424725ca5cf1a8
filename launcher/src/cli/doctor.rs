//! `hawser doctor`: what differs between the records and the kernel.

use api::doctor::{Diagnosis, Difference, Treatment};
use api::path::DOCTOR;
use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::output;

/// `hawser doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorFlags {
    /// Repair what differs, and say so
    #[arg(long)]
    pub repair: bool,
    /// json
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub format: Option<String>,
}

/// Exits 1 while something differs.
///
/// # Errors
/// No daemon, or it cannot look at the kernel.
pub fn doctor(context: &Context, flags: &DoctorFlags) -> Result<i32, CliError> {
    let client = context.client();
    let diagnosis: Diagnosis = if flags.repair {
        client.post(DOCTOR, &serde_json::Value::Null)?
    } else {
        client.get(DOCTOR)?
    };
    if flags.format.is_some() {
        output::line(serde_json::json!(diagnosis))?;
    } else {
        for line in lines(&diagnosis) {
            output::line(line)?;
        }
    }
    Ok(i32::from(!diagnosis.is_well()))
}

fn lines(diagnosis: &Diagnosis) -> Vec<String> {
    let mut lines: Vec<String> = diagnosis.differences.iter().map(difference).collect();
    if lines.is_empty() {
        lines.push("the kernel is as it should be".to_owned());
    }
    let findings = diagnosis.findings.iter();
    lines.extend(findings.map(|finding| format!("WARNING: {}; {}", finding.what, finding.way_out)));
    lines.extend(diagnosis.paths.iter().cloned());
    lines
}

fn difference(difference: &Difference) -> String {
    let Difference {
        what,
        remedy,
        state,
        error,
    } = difference;
    match state {
        Treatment::Found => format!("{what}: would {remedy}"),
        Treatment::Repaired => format!("{what}: repaired: {remedy}"),
        Treatment::Failed => format!("{what}: could not {remedy}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use api::doctor::Finding;

    use super::*;

    fn differs(state: Treatment, error: &str) -> Diagnosis {
        Diagnosis {
            differences: vec![Difference {
                what: "bridge br-1 of network shop is down".to_owned(),
                remedy: "create bridge br-1".to_owned(),
                state,
                error: error.to_owned(),
            }],
            findings: vec![Finding {
                what: "rp_filter is 1".to_owned(),
                way_out: "set it to 2".to_owned(),
            }],
            paths: vec!["uplinks: TCX links".to_owned()],
        }
    }

    #[test]
    fn each_difference_finding_and_path_is_a_line() {
        let found = lines(&differs(Treatment::Found, ""));
        assert_eq!(
            found,
            [
                "bridge br-1 of network shop is down: would create bridge br-1",
                "WARNING: rp_filter is 1; set it to 2",
                "uplinks: TCX links",
            ]
        );
        let repaired = differs(Treatment::Repaired, "");
        assert!(lines(&repaired)[0].ends_with(": repaired: create bridge br-1"));
        assert!(repaired.is_well());
        let failed = differs(Treatment::Failed, "no such device");
        assert!(lines(&failed)[0].ends_with("could not create bridge br-1: no such device"));
        assert!(!failed.is_well());
    }

    #[test]
    fn nothing_is_said_in_one_line() {
        let well = Diagnosis::default();
        assert!(well.is_well());
        assert_eq!(lines(&well), ["the kernel is as it should be"]);
    }
}
