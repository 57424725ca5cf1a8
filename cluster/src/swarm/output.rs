//! The output of tasks: a manager asks the node that has them, and that its agent.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use api::id::NodeId;
use axum::body::Body;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::gate::Visit;
use super::tls::Trust;
use super::{Swarm, SwarmError, record};
use crate::control_plane::ControlPlane;
use crate::key;
use crate::node::{Node, Role};

/// Bytes that are passed on at once.
const PIECE: usize = 32 << 10;

/// Which manager asks, and for what: that is between the launchers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Listening {
    pub(super) node: NodeId,
    pub(super) wanted: Value,
}

/// The agent of this node, for managers.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) control: Arc<dyn ControlPlane>,
    /// Where it answers.
    pub(super) agent: PathBuf,
}

impl Speaker {
    /// For a node that has shown to be the one that asks.
    pub(super) fn speak(&self, asked: &Listening) -> Result<UnixStream, SwarmError> {
        let node: Option<(Node, u64)> = record::read(&*self.control, &key::node(&asked.node))?;
        // The certificate of one that was demoted says otherwise until it ends.
        if node.is_none_or(|(node, _)| node.role != Role::Manager) {
            return Err(SwarmError::NoManager(asked.node.clone()));
        }
        self.ask(&asked.wanted)
    }

    fn ask(&self, wanted: &Value) -> Result<UnixStream, SwarmError> {
        let asked = || {
            let mut stream = UnixStream::connect(&self.agent)?;
            stream.write_all(format!("{wanted}\n").as_bytes())?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        asked().map_err(SwarmError::Agent)
    }
}

/// What comes from the agent, as it comes.
///
/// # Errors
/// The runtime cannot wait for it.
pub(super) fn body(stream: UnixStream) -> io::Result<Body> {
    let stream = tokio::net::UnixStream::from_std(stream)?;
    Ok(Body::from_stream(stream::unfold(
        stream,
        async |mut stream| {
            let mut piece = vec![0; PIECE];
            match stream.read(&mut piece).await {
                Ok(0) => None,
                Ok(length) => {
                    piece.truncate(length);
                    Some((Ok(piece), stream))
                }
                Err(error) => Some((Err(error), stream)),
            }
        },
    )))
}

impl Swarm {
    /// What the agent of a node answers.
    ///
    /// # Errors
    /// As [`Self::node`]; [`SwarmError::Silent`] of a node that does not answer, or refuses.
    pub fn output(&self, key: &str, wanted: Value) -> Result<Body, SwarmError> {
        let active = self.manager()?;
        let (node, _) = active.find(key)?;
        if node.id == active.state.node {
            let stream = self.speaker(&active.shared).ask(&wanted)?;
            return body(stream).map_err(SwarmError::Agent);
        }
        let papers = self.home.papers()?;
        let asked = Listening {
            node: active.state.node.clone(),
            wanted,
        };
        let heard = self.runtime.block_on(async {
            let visit = Visit::to_node(node.door(), &node.id, Trust::Members(&papers)).await?;
            visit.listen(&asked).await
        });
        heard.map_err(|error| match error {
            SwarmError::Manager { address, what } => SwarmError::Silent {
                hostname: node.hostname,
                address,
                what,
            },
            other => other,
        })
    }

    /// This node's agent, for managers.
    pub(super) fn speaker(&self, control: &Arc<dyn ControlPlane>) -> Speaker {
        Speaker {
            control: Arc::clone(control),
            agent: self.host.agent.clone(),
        }
    }
}
