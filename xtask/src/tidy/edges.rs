//! Arrows between crates point down only, and some crates stay free of some dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;
use crate::process;
use crate::workspace;

/// What each crate of the workspace may depend on inside the workspace, for any purpose.
const ALLOWED: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("programs", &["abi"]),
    ("api", &[]),
    ("sys", &[]),
    ("cluster", &["api", "sys"]),
    ("netd", &["abi", "api", "cluster", "sys"]),
    ("storaged", &["api", "sys"]),
    ("hawserd", &["api", "cluster", "netd", "storaged", "sys"]),
    ("cni-plugins", &["api"]),
    ("launcher", &["api", "sys"]),
    // The bench of a cluster plays nodes that are not there.
    ("kernel-tests", &["api", "cluster", "sys"]),
    ("xtask", &[]),
];

/// Crates that may not be reached from a crate, with the reason.
const ABSENT: &[(&str, &str, &str)] = &[
    ("api", "tokio", "its client is for short-lived programs"),
    ("cni-plugins", "tokio", "a plugin lives for milliseconds"),
    ("launcher", "tokio", "namespaces and fork are per thread"),
    ("sys", "tokio", "it is synchronous"),
    ("sys", "serde", "it holds no policy and no formats"),
    ("storaged", "aya", "the data path is netd's"),
    (
        "storaged",
        "tokio",
        "it is synchronous; the daemon calls it from worker threads",
    ),
];

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Debug, Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// Absent for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

pub(crate) fn check() -> Result<Vec<Finding>> {
    let json = process::output(workspace::cargo().args([
        "metadata",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("output of cargo metadata")?;
    let mut findings = forbidden_edges(&metadata);
    findings.extend(unwanted_crates(&metadata));
    Ok(findings)
}

fn finding(what: String) -> Finding {
    Finding::at(Path::new("Cargo.toml"), 0, what)
}

fn forbidden_edges(metadata: &Metadata) -> Vec<Finding> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut findings = Vec::new();
    let members = || {
        metadata
            .packages
            .iter()
            .filter(|package| metadata.workspace_members.contains(&package.id))
    };
    let names: BTreeSet<&str> = members().map(|package| package.name.as_str()).collect();
    for package in members() {
        let Some(targets) = allowed.get(package.name.as_str()) else {
            findings.push(finding(format!(
                "{} has no row in tidy's table of edges",
                package.name
            )));
            continue;
        };
        let own = package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.as_str());
        for target in own.filter(|name| names.contains(name) && !targets.contains(name)) {
            findings.push(finding(format!(
                "{} may not depend on {target}",
                package.name
            )));
        }
    }
    findings
}

fn unwanted_crates(metadata: &Metadata) -> Vec<Finding> {
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    ABSENT
        .iter()
        .filter(|(from, unwanted, _)| reachable(metadata, &names, from).contains(unwanted))
        .map(|(from, unwanted, why)| finding(format!("{from} reaches {unwanted}: {why}")))
        .collect()
}

/// Names of all crates that `from` is built with, itself and its tests' needs left out.
fn reachable<'a>(
    metadata: &'a Metadata,
    names: &BTreeMap<&str, &'a str>,
    from: &str,
) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let mut open: Vec<&str> = metadata
        .workspace_members
        .iter()
        .map(String::as_str)
        .filter(|id| names.get(id) == Some(&from))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        let normal = nodes
            .get(id)
            .into_iter()
            .flat_map(|node| &node.deps)
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        open.extend(
            normal
                .map(|dependency| dependency.pkg.as_str())
                .filter(|id| seen.insert(*id)),
        );
    }
    seen.iter()
        .filter_map(|id| names.get(id).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edges: &[(&str, &str)]) -> Metadata {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let own = |name: &str| {
            edges
                .iter()
                .filter(move |(from, _)| *from == name)
                .collect::<Vec<_>>()
        };
        let packages = names.iter().map(|name| Package {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            dependencies: own(name)
                .iter()
                .map(|(_, to)| Dependency {
                    name: (*to).to_owned(),
                })
                .collect(),
        });
        let nodes = names.iter().map(|name| Node {
            id: (*name).to_owned(),
            deps: own(name)
                .iter()
                .map(|(_, to)| NodeDependency {
                    pkg: (*to).to_owned(),
                    dep_kinds: vec![Kind { kind: None }],
                })
                .collect(),
        });
        Metadata {
            packages: packages.collect(),
            workspace_members: names
                .iter()
                .filter(|name| !matches!(**name, "tokio" | "between"))
                .map(|name| (*name).to_owned())
                .collect(),
            resolve: Resolve {
                nodes: nodes.collect(),
            },
        }
    }

    #[test]
    fn an_unlisted_edge_is_found() {
        assert!(forbidden_edges(&metadata(&[("netd", "api")])).is_empty());
        assert_eq!(forbidden_edges(&metadata(&[("netd", "storaged")])).len(), 1);
    }

    #[test]
    fn an_unlisted_crate_is_found() {
        assert_eq!(forbidden_edges(&metadata(&[("novel", "tokio")])).len(), 1);
    }

    #[test]
    fn an_unwanted_crate_is_found_however_far_it_is() {
        let far = metadata(&[("launcher", "between"), ("between", "tokio")]);
        assert_eq!(unwanted_crates(&far).len(), 1);
        assert!(
            unwanted_crates(&metadata(&[("hawserd", "tokio"), ("launcher", "api")])).is_empty()
        );
    }
}
