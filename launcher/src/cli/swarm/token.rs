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
pub(crate) mod tests {
    use api::id::NodeId;
    use api::swarm::{JoinTokens, RotationProgress, SwarmSettings, TlsInfo};

    use super::*;

    pub(crate) fn cluster() -> Swarm {
        Swarm {
            id: NodeId::from_bytes([9; 16]),
            created_at: "2026-01-02T03:04:05Z".to_owned(),
            join_tokens: JoinTokens {
                worker: "SWMTKN-1-a-w".to_owned(),
                manager: "SWMTKN-1-a-m".to_owned(),
            },
            tls: TlsInfo::default(),
            root_rotation_in_progress: false,
            rotation: RotationProgress::default(),
            cert_expiry: 90 * 86_400,
            data_path_port: 4789,
            join_address: "192.0.2.1:2377".to_owned(),
            settings: SwarmSettings::default(),
            lease: 15,
            auto_lock: true,
        }
    }

    #[test]
    fn the_instruction_can_be_copied() {
        assert_eq!(
            instruction(&cluster(), Role::Manager),
            "To add a manager to this swarm, run the following command:\n\n    \
             hawser swarm join --token SWMTKN-1-a-m 192.0.2.1:2377"
        );
    }
}
