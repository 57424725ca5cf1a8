//! `hawser swarm join-token`.

use api::path::{SWARM, SWARM_ROTATE};
use api::swarm::{Role, Swarm};
use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser swarm join-token`.
#[derive(Debug, Clone, Args)]
pub struct TokenFlags {
    /// As what hosts join
    #[arg(value_enum)]
    pub role: RoleFlag,
    /// Print the token only
    #[arg(short, long)]
    pub quiet: bool,
    /// Replace the token: the one before opens nothing any more
    #[arg(long)]
    pub rotate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleFlag {
    Worker,
    Manager,
}

impl From<RoleFlag> for Role {
    fn from(flag: RoleFlag) -> Self {
        match flag {
            RoleFlag::Worker => Self::Worker,
            RoleFlag::Manager => Self::Manager,
        }
    }
}

pub(super) fn join_token(context: &Context, flags: &TokenFlags) -> Result<i32, CliError> {
    let role = Role::from(flags.role);
    let client = context.client();
    if flags.rotate {
        let path = format!("{SWARM_ROTATE}/{}", role.as_str());
        client.post::<()>(&path, &())?;
        if !flags.quiet {
            let role = role.as_str();
            output::line(format_args!("Successfully rotated {role} join token.\n"))?;
        }
    }
    let swarm: Swarm = client.get(SWARM)?;
    if flags.quiet {
        output::line(swarm.join_tokens.of(role))?;
    } else {
        output::line(instruction(&swarm, role))?;
    }
    Ok(0)
}

/// How a host joins: Docker's words.
pub(super) fn instruction(swarm: &Swarm, role: Role) -> String {
    format!(
        "To add a {} to this swarm, run the following command:\n\n    hawser swarm join --token {} {}",
        role.as_str(),
        swarm.join_tokens.of(role),
        swarm.join_address
    )
}

#[cfg(test)]
mod tests {
    use api::id::NodeId;
    use api::swarm::{JoinTokens, RotationProgress, SwarmSettings, TlsInfo};

    use super::*;

    #[test]
    fn the_instruction_can_be_copied() {
        let swarm = Swarm {
            id: NodeId::from_bytes([1; 16]),
            created_at: String::new(),
            join_tokens: JoinTokens {
                worker: "SWMTKN-1-a-w".to_owned(),
                manager: "SWMTKN-1-a-m".to_owned(),
            },
            tls: TlsInfo::default(),
            root_rotation_in_progress: false,
            rotation: RotationProgress::default(),
            cert_expiry: 60,
            data_path_port: 4789,
            join_address: "10.0.0.1:2377".to_owned(),
            settings: SwarmSettings::default(),
            lease: 15,
            auto_lock: false,
        };
        let lines = instruction(&swarm, Role::Manager);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(
            lines,
            [
                "To add a manager to this swarm, run the following command:",
                "",
                "    hawser swarm join --token SWMTKN-1-a-m 10.0.0.1:2377",
            ]
        );
    }
}
