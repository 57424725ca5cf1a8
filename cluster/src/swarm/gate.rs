//! Where nodes come in: a manager's port 2377, and how they ask there. Every node has this door, for
//! managers that ask for the output of its tasks ([`super::output`]).
//!
//! Nobody is known at the door, and whoever is let in shows a token. The door is therefore narrow:
//! few at a time, little to say, and not for long.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use api::id::NodeId;
use api::swarm::{EtcdAddress, Machine};
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State as Given};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::{IncomingStream, Listener};
use axum::{BoxError, Json, Router};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::home::Papers;
use super::lock::UnlockKey;
use super::output::{self, Listening, Speaker};
use super::tls::Trust;
use super::{SwarmError, tls};
use crate::authority::unit;
use crate::control_plane::{Entry, Outcome, Transaction};
use crate::node::{Availability, Role};

const JOIN: &str = "/v1/join";
const RENEW: &str = "/v1/renew";
const COMMIT: &str = "/v1/commit";
const LOGINS: &str = "/v1/logins";
const OUTPUT: &str = "/v1/output";
/// A request for a certificate has about 500 bytes.
const LARGEST: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 32;
const AGAIN: Duration = Duration::from_millis(2);

/// Who asks to come in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Application {
    pub(super) secret: NodeId,
    /// PEM.
    pub(super) request: String,
    pub(super) hostname: String,
    /// Where it would take requests itself, as a manager.
    pub(super) manager_address: SocketAddr,
    pub(super) data_address: std::net::IpAddr,
    pub(super) availability: Availability,
    pub(super) engine: String,
    #[serde(default)]
    pub(super) machine: Machine,
}

/// What it gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Admission {
    pub(super) cluster: NodeId,
    pub(super) node: NodeId,
    pub(super) role: Role,
    /// PEM.
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) etcd: EtcdAddress,
    pub(super) own_etcd: bool,
    pub(super) data_port: u16,
    /// What a manager is unlocked with.
    #[serde(default)]
    pub(super) unlock: Option<UnlockKey>,
}

/// A member that wants another certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Renewal {
    pub(super) node: NodeId,
    /// PEM.
    pub(super) request: String,
    /// Where others reach it, as a manager.
    pub(super) address: std::net::IpAddr,
}

/// What it gets: for the role that it has by now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Renewed {
    pub(super) role: Role,
    /// PEM.
    pub(super) authority: String,
    pub(super) certificate: String,
    /// What a manager is unlocked with.
    #[serde(default)]
    pub(super) unlock: Option<UnlockKey>,
}

/// What a worker may not write itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) node: NodeId,
    pub(super) transaction: Transaction,
}

/// What a worker may read only of services that it is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plea {
    pub(super) node: NodeId,
    pub(super) service: String,
}

/// Why it is not let in.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    message: String,
}

/// Who decides. Called on threads that may wait.
pub(super) trait Porter: Send + Sync {
    fn admit(&self, asked: Application) -> Result<Admission, SwarmError>;

    /// For a node that has shown that it is the one that asks.
    fn renew(&self, asked: Renewal) -> Result<Renewed, SwarmError>;

    /// The same.
    fn commit(&self, wish: Wish) -> Result<Outcome, SwarmError>;

    /// The same: the logins of a service, by their keys.
    fn logins(&self, plea: Plea) -> Result<BTreeMap<String, Entry>, SwarmError>;
}

/// Who answers at a door.
#[derive(Clone)]
struct Door {
    /// Of a manager.
    porter: Arc<RwLock<Option<Arc<dyn Porter>>>>,
    speaker: Arc<Speaker>,
}

impl Door {
    fn porter(&self) -> Result<Arc<dyn Porter>, SwarmError> {
        let porter = self.porter.read().unwrap_or_else(PoisonError::into_inner);
        porter.clone().ok_or(SwarmError::Worker)
    }
}

/// What a visitor has shown.
#[derive(Debug, Clone)]
struct Shown(Option<CertificateDer<'static>>);

impl Connected<IncomingStream<'_, Greeted>> for Shown {
    fn connect_info(visitor: IncomingStream<'_, Greeted>) -> Self {
        let (_, session) = visitor.io().get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        Self(chain.first().map(|shown| shown.clone().into_owned()))
    }
}

/// Takes requests to join until it is dropped.
pub(super) struct Gate {
    task: JoinHandle<()>,
    acceptor: Arc<RwLock<TlsAcceptor>>,
    porter: Arc<RwLock<Option<Arc<dyn Porter>>>>,
}

impl Gate {
    /// Lets nobody in any more, whoever still holds it: the address is free when this returns.
    pub(super) fn close(&self) {
        self.task.abort();
        let until = Instant::now() + PATIENCE;
        while !self.task.is_finished() && Instant::now() < until {
            thread::sleep(AGAIN);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

fn acceptor(papers: &Papers) -> Result<TlsAcceptor, SwarmError> {
    Ok(TlsAcceptor::from(Arc::new(tls::server(papers)?)))
}

impl Gate {
    pub(super) async fn open(
        address: SocketAddr,
        papers: &Papers,
        porter: Option<Arc<dyn Porter>>,
        speaker: Speaker,
    ) -> Result<Self, SwarmError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| SwarmError::Listen { address, source })?;
        let acceptor = Arc::new(RwLock::new(acceptor(papers)?));
        let shown = Arc::clone(&acceptor);
        let porter = Arc::new(RwLock::new(porter));
        let door = Door {
            porter: Arc::clone(&porter),
            speaker: Arc::new(speaker),
        };
        let router = Router::new()
            .route(JOIN, post(join))
            .route(RENEW, post(renew))
            .route(COMMIT, post(commit))
            .route(LOGINS, post(logins))
            .route(OUTPUT, post(output))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(door)
            .into_make_service_with_connect_info::<Shown>();
        let (sender, greeted) = mpsc::channel(AT_ONCE);
        let task = tokio::spawn(async move {
            tokio::join!(greet(listener, shown, sender), async {
                let served = axum::serve(Greeted { greeted, address }, router).await;
                if let Err(error) = served {
                    tracing::warn!(%error, "nodes cannot join here any more");
                }
            });
        });
        Ok(Self {
            task,
            acceptor,
            porter,
        })
    }

    /// Lets others in from now on by this porter, or by none.
    pub(super) fn post(&self, porter: Option<Arc<dyn Porter>>) {
        *self.porter.write().unwrap_or_else(PoisonError::into_inner) = porter;
    }

    /// Shows other papers from the next visitor on.
    pub(super) fn show(&self, papers: &Papers) -> Result<(), SwarmError> {
        let other = acceptor(papers)?;
        *self
            .acceptor
            .write()
            .unwrap_or_else(PoisonError::into_inner) = other;
        Ok(())
    }
}

/// Shakes hands with several at once: one that is slow keeps nobody waiting.
async fn greet(
    listener: TcpListener,
    acceptor: Arc<RwLock<TlsAcceptor>>,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a node could not connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shown = acceptor.read().unwrap_or_else(PoisonError::into_inner);
        let handshake = shown.accept(stream);
        drop(shown);
        let sender = sender.clone();
        tokio::spawn(async move {
            match timeout(PATIENCE, handshake).await {
                Ok(Ok(stream)) => drop(sender.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                Err(_elapsed) => tracing::debug!(%peer, "too slow for TLS"),
            }
            drop(place);
        });
    }
}

/// Connections that have shaken hands, as axum takes them.
struct Greeted {
    greeted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Listener for Greeted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.greeted.recv().await {
            Some(connection) => connection,
            // Nobody greets any more: the task is about to end.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn join(Given(door): Given<Door>, Json(asked): Json<Application>) -> Response {
    let who: String = asked.hostname.chars().take(64).collect();
    answer(&who, move || door.porter()?.admit(asked)).await
}

async fn renew(
    Given(door): Given<Door>,
    ConnectInfo(Shown(shown)): ConnectInfo<Shown>,
    Json(asked): Json<Renewal>,
) -> Response {
    let who = asked.node.clone();
    known(&who, shown, move || door.porter()?.renew(asked)).await
}

async fn commit(
    Given(door): Given<Door>,
    ConnectInfo(Shown(shown)): ConnectInfo<Shown>,
    Json(wish): Json<Wish>,
) -> Response {
    let who = wish.node.clone();
    known(&who, shown, move || door.porter()?.commit(wish)).await
}

async fn logins(
    Given(door): Given<Door>,
    ConnectInfo(Shown(shown)): ConnectInfo<Shown>,
    Json(plea): Json<Plea>,
) -> Response {
    let who = plea.node.clone();
    known(&who, shown, move || door.porter()?.logins(plea)).await
}

async fn output(
    Given(door): Given<Door>,
    ConnectInfo(Shown(shown)): ConnectInfo<Shown>,
    Json(asked): Json<Listening>,
) -> Response {
    let who = asked.node.clone();
    let is_it = shown.is_some_and(|shown| tls::is_of(&shown, &who) && tls::is_manager(&shown));
    let unknown = SwarmError::NoManager(who.clone());
    let heard = decided(who.as_str(), move || match is_it {
        true => door.speaker.speak(&asked),
        false => Err(unknown),
    });
    match heard.await {
        Ok(stream) => match output::body(stream) {
            Ok(body) => body.into_response(),
            Err(error) => refused(who.as_str(), SwarmError::Agent(error).to_string()),
        },
        Err(refusal) => refusal,
    }
}

/// What is only for `who` has shown to be that node.
async fn known<T>(
    who: &NodeId,
    shown: Option<CertificateDer<'static>>,
    decide: impl FnOnce() -> Result<T, SwarmError> + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
{
    let is_it = shown.is_some_and(|shown| tls::is_of(&shown, who));
    let unknown = SwarmError::NoNode(who.to_string());
    answer(who.as_str(), move || match is_it {
        true => decide(),
        false => Err(unknown),
    })
    .await
}

async fn answer<T>(
    who: &str,
    decide: impl FnOnce() -> Result<T, SwarmError> + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
{
    match decided(who, decide).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal,
    }
}

/// On a thread that may wait.
async fn decided<T: Send + 'static>(
    who: &str,
    decide: impl FnOnce() -> Result<T, SwarmError> + Send + 'static,
) -> Result<T, Response> {
    match tokio::task::spawn_blocking(decide).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refused(who, error.to_string())),
        Err(_panic) => Err(refused(
            who,
            "internal error, see the node's log".to_owned(),
        )),
    }
}

fn refused(who: &str, refusal: String) -> Response {
    tracing::warn!(who, refusal, "a node is refused");
    let refusal = Refusal { message: refusal };
    (StatusCode::FORBIDDEN, Json(refusal)).into_response()
}

/// A connection to another node, and where on this host it begins.
pub(super) struct Visit {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    pub(super) local: SocketAddr,
    manager: SocketAddr,
}

impl Visit {
    /// Connects to the manager at `address`.
    pub(super) async fn to(address: SocketAddr, trust: Trust<'_>) -> Result<Self, SwarmError> {
        Self::named(address, tls::manager_name(), trust).await
    }

    /// Connects to the node at `address`, which must be that one.
    pub(super) async fn to_node(
        address: SocketAddr,
        node: &NodeId,
        trust: Trust<'_>,
    ) -> Result<Self, SwarmError> {
        Self::named(address, tls::node_name(node)?, trust).await
    }

    async fn named(
        address: SocketAddr,
        name: ServerName<'static>,
        trust: Trust<'_>,
    ) -> Result<Self, SwarmError> {
        let failed = |what: String| SwarmError::Manager { address, what };
        let config = Arc::new(tls::client(trust)?);
        let connected = timeout(PATIENCE, async {
            let stream = TcpStream::connect(address).await?;
            let local = stream.local_addr()?;
            let connector = TlsConnector::from(config);
            let stream = connector.connect(name, stream).await?;
            Ok::<_, std::io::Error>((stream, local))
        });
        let (stream, local) = match connected.await {
            Ok(connected) => connected.map_err(|error| failed(error.to_string()))?,
            Err(_elapsed) => return Err(failed("no answer".to_owned())),
        };
        Ok(Self {
            stream,
            local,
            manager: address,
        })
    }

    pub(super) async fn apply(self, application: &Application) -> Result<Admission, SwarmError> {
        self.post(JOIN, application).await
    }

    pub(super) async fn renew(self, renewal: &Renewal) -> Result<Renewed, SwarmError> {
        self.post(RENEW, renewal).await
    }

    pub(super) async fn commit(self, wish: &Wish) -> Result<Outcome, SwarmError> {
        self.post(COMMIT, wish).await
    }

    pub(super) async fn logins(self, plea: &Plea) -> Result<BTreeMap<String, Entry>, SwarmError> {
        self.post(LOGINS, plea).await
    }

    /// What a node has to say for as long as it goes on.
    pub(super) async fn listen(self, asked: &Listening) -> Result<Body, SwarmError> {
        let address = self.manager;
        let failed = |what: String| SwarmError::Manager { address, what };
        let asked = timeout(PATIENCE, async {
            let response = self.send(OUTPUT, asked).await?;
            match response.status().is_success() {
                true => Ok(Ok(Body::new(response.into_body()))),
                false => Ok(Err(refusal(response).await?)),
            }
        });
        match asked.await {
            Ok(Ok(answer)) => answer.map_err(failed),
            Ok(Err::<_, BoxError>(error)) => Err(failed(error.to_string())),
            Err(_elapsed) => Err(failed("no answer".to_owned())),
        }
    }

    async fn post<T: DeserializeOwned>(
        self,
        path: &str,
        asked: &impl Serialize,
    ) -> Result<T, SwarmError> {
        let address = self.manager;
        let failed = |what: String| SwarmError::Manager { address, what };
        match timeout(PATIENCE, self.ask(path, asked)).await {
            Ok(Ok(answer)) => answer.map_err(failed),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_elapsed) => Err(failed("no answer".to_owned())),
        }
    }

    /// What the manager says, or why it refuses.
    async fn ask<T: DeserializeOwned>(
        self,
        path: &str,
        asked: &impl Serialize,
    ) -> Result<Result<T, String>, BoxError> {
        let response = self.send(path, asked).await?;
        if !response.status().is_success() {
            return Ok(Err(refusal(response).await?));
        }
        Ok(Ok(serde_json::from_slice(&whole(response).await?)?))
    }

    async fn send(
        self,
        path: &str,
        asked: &impl Serialize,
    ) -> Result<hyper::Response<Incoming>, BoxError> {
        let io = TokioIo::new(self.stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(serde_json::to_vec(asked)?));
        let request = hyper::Request::post(path)
            .header("host", unit(Role::Manager))
            .header("content-type", "application/json")
            .body(body)?;
        Ok(sender.send_request(request).await?)
    }
}

async fn whole(response: hyper::Response<Incoming>) -> Result<Bytes, BoxError> {
    let body = Limited::new(response.into_body(), LARGEST);
    Ok(body.collect().await?.to_bytes())
}

/// In the words of who refuses.
async fn refusal(response: hyper::Response<Incoming>) -> Result<String, BoxError> {
    let body = whole(response).await?;
    let refusal: Result<Refusal, _> = serde_json::from_slice(&body);
    Ok(match refusal {
        Ok(refusal) => refusal.message,
        Err(_other) => String::from_utf8_lossy(&body).into_owned(),
    })
}
