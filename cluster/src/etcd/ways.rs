//! The members of etcd: one is asked at a time, for as long as it answers, then the next.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::time::timeout;

use super::EtcdTls;
use crate::control_plane::ControlError;

/// How long an answer may take: longer than the election of a leader.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all members are left alone that have no leader.
const ELECTION: Duration = Duration::from_millis(200);
/// Pings show that a connection is dead on which nothing comes; etcd refuses more than one in 5 s.
const PING: Duration = Duration::from_secs(5);

/// gRPC's codes.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;

/// The members that are spoken with now.
pub(super) struct Ways(RwLock<Arc<Members>>);

struct Members {
    clients: Vec<Client>,
    /// Counts who was asked; the one that is asked now is the rest by the number of members.
    turn: AtomicUsize,
}

impl Ways {
    pub(super) async fn new(
        endpoints: &[String],
        tls: Option<&EtcdTls>,
    ) -> Result<Self, ControlError> {
        let members = Members::new(endpoints, tls).await?;
        Ok(Self(RwLock::new(Arc::new(members))))
    }

    /// Others from now on, or as somebody else.
    pub(super) async fn redirect(
        &self,
        endpoints: &[String],
        tls: Option<&EtcdTls>,
    ) -> Result<(), ControlError> {
        let members = Arc::new(Members::new(endpoints, tls).await?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members;
        Ok(())
    }

    /// The member that is asked now, and its turn.
    pub(super) fn client(&self) -> (usize, Client) {
        let members = self.members();
        let turn = members.turn.load(Ordering::Relaxed);
        (turn, members.clients[turn % members.clients.len()].clone())
    }

    fn members(&self) -> Arc<Members> {
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&members)
    }

    /// Which members answer and know who leads them, in the order of their addresses.
    pub(super) async fn answering(&self) -> Vec<bool> {
        let mut answering = Vec::new();
        for client in &self.members().clients {
            let mut asked = client.maintenance_client();
            let status = within(asked.status()).await;
            answering.push(status.is_ok_and(|status| status.leader() != 0));
        }
        answering
    }

    /// The one whose turn it was does not answer. Several may say so at once.
    pub(super) fn pass(&self, turn: usize) {
        let (old, new) = (turn, turn.wrapping_add(1));
        let turns = &self.members().turn;
        // Somebody else was faster, otherwise.
        let _passed = turns.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member after the other until one answers.
    pub(super) async fn anyone<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let count = self.members().clients.len();
        // Whoever asks waits no longer than for one that is alone.
        let patience = PATIENCE / u32::try_from(count.min(2)).unwrap_or(1);
        let deadline = Instant::now() + PATIENCE;
        let mut tries = 0;
        let mut are_electing = false;
        loop {
            let (turn, client) = self.client();
            let answer = within_time(patience, ask(client)).await;
            match &answer {
                Err(ControlError::Unreachable(why)) => are_electing |= is_election(why),
                // Nothing was done, and the same question is answered by the rights as they are now.
                Err(ControlError::Denied(why)) if is_outdated(why) && Instant::now() < deadline => {
                    continue;
                }
                _ => return answer,
            }
            self.pass(turn);
            tries += 1;
            if tries % count != 0 {
                continue;
            }
            if !are_electing || Instant::now() > deadline {
                return answer;
            }
            tokio::time::sleep(ELECTION).await;
        }
    }
}

impl Members {
    async fn new(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Self, ControlError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(PING, PATIENCE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(tls) = tls {
            let read = |path: &PathBuf| {
                std::fs::read(path)
                    .map_err(|error| ControlError::Options(format!("{}: {error}", path.display())))
            };
            let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
            let mut options = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(read(&tls.ca)?))
                .identity(identity);
            if let Some(name) = &tls.name {
                options = options.domain_name(name);
            }
            connect = connect.with_tls(options);
        }
        let mut clients = Vec::new();
        for endpoint in endpoints {
            let client = Client::connect([endpoint], Some(connect.clone())).await;
            clients.push(client.map_err(|error| ControlError::Options(error.to_string()))?);
        }
        if clients.is_empty() {
            return Err(ControlError::Options("no address of etcd".to_owned()));
        }
        Ok(Self {
            clients,
            turn: AtomicUsize::new(0),
        })
    }
}

pub(super) async fn within<T>(
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, ControlError> {
    within_time(PATIENCE, answer).await
}

async fn within_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, ControlError> {
    match timeout(patience, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if is_refusal(&error) => Err(ControlError::Denied(error.to_string())),
        Ok(Err(error)) => Err(ControlError::Unreachable(error.to_string())),
        Err(_elapsed) => Err(ControlError::Unreachable(format!(
            "no answer within {} seconds",
            patience.as_secs_f32()
        ))),
    }
}

/// Those that answer are about to agree on who leads them.
fn is_election(why: &str) -> bool {
    ["etcdserver: no leader", "etcdserver: leader changed"]
        .iter()
        .any(|words| why.contains(words))
}

/// Somebody's rights have changed between the question and the answer.
fn is_outdated(why: &str) -> bool {
    ["auth store is old", "revision in header is old"]
        .iter()
        .any(|words| why.contains(words))
}

/// Any other member would say the same.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => {
            let code = status.code() as i32;
            matches!(
                code,
                PERMISSION_DENIED | FAILED_PRECONDITION | INVALID_ARGUMENT
            ) || is_outdated(status.message())
        }
        _ => false,
    }
}
