//! The flags of an update that add to what replicas are made of, and remove from it.

use api::task::{ContainerSpec, TaskTemplate};
use clap::Args;

use super::ServiceFlagError;
use super::task::{mounts, preferences};
use crate::agent::constraint;
use crate::cli::error::CliError;
use crate::cli::run::draft::pairs;
use crate::cli::run::env;
use crate::cli::words::words;

/// Flags of an update alone.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Replicas")]
pub struct ChangedTaskFlags {
    /// Image of new replicas
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Command of new replicas, by words as a shell reads them
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub args: Option<String>,
    /// Set an environment variable: NAME=VALUE
    #[arg(long, value_name = "VARIABLE")]
    pub env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    pub env_rm: Vec<String>,
    /// Add a mount, or replace the one at its target
    #[arg(long, value_name = "FIELDS")]
    pub mount_add: Vec<String>,
    /// Remove the mount at a target
    #[arg(long, value_name = "PATH")]
    pub mount_rm: Vec<String>,
    /// Add or change a label of the containers: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub container_label_add: Vec<String>,
    /// Remove a label of the containers
    #[arg(long, value_name = "NAME")]
    pub container_label_rm: Vec<String>,
    /// Add a group of the user
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Remove a group of the user
    #[arg(long, value_name = "GROUP")]
    pub group_rm: Vec<String>,
    /// Add a line for /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub host_add: Vec<String>,
    /// Remove a line for /etc/hosts: NAME:ADDRESS, or all of a NAME
    #[arg(long, value_name = "NAME[:ADDRESS]")]
    pub host_rm: Vec<String>,
    /// Add a DNS server
    #[arg(long, value_name = "ADDRESS")]
    pub dns_add: Vec<String>,
    /// Remove a DNS server
    #[arg(long, value_name = "ADDRESS")]
    pub dns_rm: Vec<String>,
    /// Add a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_rm: Vec<String>,
    /// Add a resolver option
    #[arg(long, value_name = "OPTION")]
    pub dns_option_add: Vec<String>,
    /// Remove a resolver option
    #[arg(long, value_name = "OPTION")]
    pub dns_option_rm: Vec<String>,
    /// Add or change a kernel parameter: NAME=VALUE
    #[arg(long, value_name = "PARAMETER")]
    pub sysctl_add: Vec<String>,
    /// Remove a kernel parameter
    #[arg(long, value_name = "NAME")]
    pub sysctl_rm: Vec<String>,
    /// Add or change a resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit_add: Vec<String>,
    /// Remove a resource limit
    #[arg(long, value_name = "NAME")]
    pub ulimit_rm: Vec<String>,
    /// Add a constraint
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint_rm: Vec<String>,
    /// Add a placement preference, behind those that there are
    #[arg(long, value_name = "PREFERENCE")]
    pub placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_name = "PREFERENCE")]
    pub placement_pref_rm: Vec<String>,
    /// Replace all replicas though nothing has changed
    #[arg(long)]
    pub force: bool,
}

impl ChangedTaskFlags {
    /// # Errors
    /// A flag that cannot be.
    pub fn change(&self, template: &mut TaskTemplate) -> Result<(), CliError> {
        let spec = &mut template.container_spec;
        if let Some(image) = &self.image {
            spec.image.clone_from(image);
        }
        if let Some(args) = &self.args {
            spec.args = words(args).map_err(|why| ServiceFlagError::Words {
                flag: "--args",
                why,
            })?;
        }
        self.change_variables(spec)?;
        self.change_mounts(spec)?;
        self.change_lists(spec)?;
        constraint::check(&self.constraint_add).map_err(ServiceFlagError::from)?;
        let placement = &mut template.placement;
        edit(
            &mut placement.constraints,
            &self.constraint_add,
            &self.constraint_rm,
        );
        edit(
            &mut placement.preferences,
            &preferences(&self.placement_pref_add)?,
            &preferences(&self.placement_pref_rm)?,
        );
        template.force_update += u64::from(self.force);
        Ok(())
    }

    fn change_variables(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        let mut variables = env::Environment::new(std::mem::take(&mut spec.env));
        env::apply(&mut variables, &self.env_add, |name| {
            std::env::var(name).ok()
        })?;
        spec.env = variables.into_pairs();
        spec.env
            .retain(|pair| !self.env_rm.iter().any(|name| name == name_of(pair)));
        Ok(())
    }

    fn change_mounts(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        let added = mounts(&self.mount_add)?;
        spec.mounts.retain(|mount| {
            !self.mount_rm.contains(&mount.target)
                && added.iter().all(|other| other.target != mount.target)
        });
        spec.mounts.extend(added);
        Ok(())
    }

    fn change_lists(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        spec.labels.extend(env::labels(&self.container_label_add));
        spec.labels
            .retain(|name, _| !self.container_label_rm.contains(name));
        spec.sysctls
            .extend(pairs("--sysctl-add", &self.sysctl_add)?);
        spec.sysctls
            .retain(|name, _| !self.sysctl_rm.contains(name));
        // One limit has one value.
        let added = self.ulimit_add.iter();
        let replaced: Vec<&str> = added.map(|limit| name_of(limit)).collect();
        spec.ulimits
            .retain(|limit| !replaced.contains(&name_of(limit)));
        spec.ulimits.extend(self.ulimit_add.iter().cloned());
        spec.ulimits
            .retain(|limit| !self.ulimit_rm.iter().any(|name| name == name_of(limit)));
        let is_gone = |host: &String| {
            let name = host.split([':', '=']).next().unwrap_or_default();
            self.host_rm.iter().any(|gone| gone == host || gone == name)
        };
        edit(&mut spec.hosts, &self.host_add, &[]);
        spec.hosts.retain(|host| !is_gone(host));
        edit(&mut spec.groups, &self.group_add, &self.group_rm);
        let dns = &mut spec.dns;
        edit(&mut dns.nameservers, &self.dns_add, &self.dns_rm);
        edit(&mut dns.search, &self.dns_search_add, &self.dns_search_rm);
        edit(&mut dns.options, &self.dns_option_add, &self.dns_option_rm);
        Ok(())
    }
}

fn name_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// What is both added and removed goes, as with Docker.
fn edit<T: Clone + PartialEq>(list: &mut Vec<T>, added: &[T], gone: &[T]) {
    for one in added {
        if !list.contains(one) {
            list.push(one.clone());
        }
    }
    list.retain(|one| !gone.contains(one));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ChangedTaskFlags,
    }

    fn change(template: &mut TaskTemplate, line: &[&str]) -> Result<(), CliError> {
        let words = ["update"].iter().chain(line);
        Line::try_parse_from(words).unwrap().flags.change(template)
    }

    #[test]
    fn every_family_adds_replaces_and_removes() {
        let mut template = TaskTemplate::default();
        let add = [
            ["--env-add", "A=1"],
            ["--container-label-add", "l=1"],
            ["--group-add", "audio"],
            ["--host-add", "db:10.0.0.1"],
            ["--host-add", "db:10.0.0.2"],
            ["--host-add", "web:10.0.0.3"],
            ["--dns-add", "10.0.0.4"],
            ["--dns-search-add", "example.com"],
            ["--dns-option-add", "ndots:1"],
            ["--sysctl-add", "net.core.somaxconn=1"],
            ["--sysctl-add", "net.core.somaxconn=2"],
            ["--ulimit-add", "nofile=10"],
            ["--constraint-add", "node.role==manager"],
            ["--placement-pref-add", "spread=node.labels.zone"],
            ["--mount-add", "type=volume,source=vol,target=/v"],
        ]
        .concat();
        change(&mut template, &add).unwrap();
        change(&mut template, &add).unwrap();
        change(&mut template, &["--ulimit-add", "nofile=20"]).unwrap();
        let spec = &template.container_spec;
        assert_eq!(spec.ulimits, ["nofile=20"]);
        assert_eq!(spec.sysctls["net.core.somaxconn"], "2");
        assert_eq!((spec.hosts.len(), spec.mounts.len()), (3, 1));
        assert_eq!(spec.groups, ["audio"]);
        change(&mut template, &["--host-rm", "db:10.0.0.1"]).unwrap();
        let hosts = &template.container_spec.hosts;
        assert_eq!(hosts[..], ["db:10.0.0.2", "web:10.0.0.3"]);
        let remove = [
            ["--env-rm", "A"],
            ["--container-label-rm", "l"],
            ["--group-rm", "audio"],
            ["--host-rm", "db"],
            ["--host-rm", "web"],
            ["--dns-rm", "10.0.0.4"],
            ["--dns-search-rm", "example.com"],
            ["--dns-option-rm", "ndots:1"],
            ["--sysctl-rm", "net.core.somaxconn"],
            ["--ulimit-rm", "nofile"],
            ["--constraint-rm", "node.role==manager"],
            ["--placement-pref-rm", "spread=node.labels.zone"],
            ["--mount-rm", "/v"],
        ]
        .concat();
        change(&mut template, &remove).unwrap();
        assert_eq!(template, TaskTemplate::default());
    }

    #[test]
    fn a_command_is_read_as_a_shell_would() {
        let mut template = TaskTemplate::default();
        change(&mut template, &["--args", "sh -c 'echo \"a  b\"'"]).unwrap();
        let spec = &template.container_spec;
        assert_eq!(spec.args, ["sh", "-c", "echo \"a  b\""]);
        let error = change(&mut template, &["--args", "sh -c 'echo"]).unwrap_err();
        assert!(
            error.to_string().contains("a quote is not closed"),
            "{error}"
        );
    }
}
