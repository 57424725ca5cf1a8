//! What a request can fail with, and which code of the wire it becomes.

use std::io;

use api::id::IfName;
use api::{ApiError, ErrorCode};
use cluster::ControlError;

use crate::bpf::BpfError;
use crate::dns::DnsError;
use crate::kernel::KernelError;
use crate::model::driver::{DriverError, ParentError};
use crate::model::endpoint::EndpointError;
use crate::model::ipam::IpamError;
use crate::model::network::NetworkError;
use crate::model::port::PortError;
use crate::model::service::ServiceError;
use crate::store::StoreError;

/// A request that was refused, or that failed and was undone.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("network namespace {path} of container {container} not found")]
    NoSandbox { path: String, container: String },
    #[error(
        "interface {ifname} of container {container} is not as it was made: {what}; detach and attach it again"
    )]
    Check {
        container: String,
        ifname: IfName,
        what: String,
    },
    #[error("network {network} has lost a part and is being repaired, waiting for: {missing}")]
    Degraded { network: String, missing: String },
    #[error("no service and no container with published ports is called {0}")]
    NoTraffic(String),
    #[error("this daemon has no data plane to trace")]
    NoDataPlane,
    #[error("data plane: {0}")]
    DataPlane(#[from] BpfError),
    #[error(
        "{subject} is the whole cluster's, and this node is not a swarm manager: run it on {managers}"
    )]
    NotManager { subject: String, managers: String },
    #[error("{0} is the whole cluster's, and this daemon has no control plane")]
    NoControlPlane(String),
    #[error("{0} is being changed by other nodes all the time: try again")]
    Contended(String),
    /// The subject is a network or a service, with its kind.
    #[error("{subject}: {source}")]
    Control {
        subject: String,
        source: ControlError,
    },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Dns(#[from] DnsError),
}

impl NetError {
    /// What is in the way is about to go by itself.
    pub fn is_ending(&self) -> bool {
        matches!(self, Self::Network(NetworkError::Ending { .. }))
    }
}

/// Why the subsystem did not start, or could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data plane: {0}")]
    DataPlane(#[from] BpfError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error("start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("default network bridge: {0}; set default-bridge-subnet in the configuration")]
    DefaultNetwork(#[source] Box<NetError>),
}

impl From<NetError> for ApiError {
    fn from(error: NetError) -> Self {
        Self::new(code(&error), error.to_string())
    }
}

fn code(error: &NetError) -> ErrorCode {
    match error {
        NetError::Network(error) => network_code(error),
        NetError::Endpoint(error) => endpoint_code(error),
        NetError::Service(error) => service_code(error),
        NetError::NoSandbox { .. } | NetError::NoTraffic(_) => ErrorCode::NotFound,
        NetError::Check { .. } | NetError::DataPlane(BpfError::Busy) => ErrorCode::Conflict,
        NetError::NotManager { .. } => ErrorCode::InvalidInput,
        NetError::NoDataPlane | NetError::NoControlPlane(_) => ErrorCode::Unsupported,
        NetError::Degraded { .. } | NetError::Contended(_) | NetError::Control { .. } => {
            ErrorCode::Unavailable
        }
        NetError::Store(StoreError::Full { .. }) => ErrorCode::Exhausted,
        NetError::DataPlane(_) | NetError::Kernel(_) | NetError::Store(_) | NetError::Dns(_) => {
            ErrorCode::Internal
        }
    }
}

fn network_code(error: &NetworkError) -> ErrorCode {
    match error {
        NetworkError::NotFound(_) => ErrorCode::NotFound,
        NetworkError::Exists(_)
        | NetworkError::LinkExists(_)
        | NetworkError::BridgeTaken { .. } => ErrorCode::Conflict,
        NetworkError::InUse { .. }
        | NetworkError::Ending { .. }
        | NetworkError::HasService { .. } => ErrorCode::InUse,
        NetworkError::Driver(DriverError::NoKernelSupport { .. }) => ErrorCode::Unsupported,
        NetworkError::Driver(DriverError::VniTaken(_)) => ErrorCode::Conflict,
        NetworkError::Driver(DriverError::NoVni) => ErrorCode::Exhausted,
        NetworkError::Driver(DriverError::Parent(error)) => parent_code(error),
        NetworkError::Ipam(error) => ipam_code(error),
        NetworkError::Name(_)
        | NetworkError::Ambiguous { .. }
        | NetworkError::Predefined(_)
        | NetworkError::Driver(_)
        | NetworkError::IpamDriver(_)
        | NetworkError::IpamOption(_)
        | NetworkError::NoFamily(_)
        | NetworkError::FamilyDisabled { .. }
        | NetworkError::Unpaired { .. }
        | NetworkError::Until(_)
        | NetworkError::Subnet(_) => ErrorCode::InvalidInput,
    }
}

fn parent_code(error: &ParentError) -> ErrorCode {
    match error {
        ParentError::NotFound { .. } | ParentError::NoBase { .. } => ErrorCode::NotFound,
        ParentError::Clash { .. } | ParentError::Enslaved { .. } => ErrorCode::Conflict,
        ParentError::Name(_)
        | ParentError::VlanId { .. }
        | ParentError::Loopback { .. }
        | ParentError::Mtu { .. } => ErrorCode::InvalidInput,
    }
}

fn endpoint_code(error: &EndpointError) -> ErrorCode {
    match error {
        EndpointError::NotFound { .. } => ErrorCode::NotFound,
        EndpointError::Conflict { .. }
        | EndpointError::Twice { .. }
        | EndpointError::LinkExists { .. }
        | EndpointError::Exclusive { .. }
        | EndpointError::MacInUse { .. } => ErrorCode::Conflict,
        EndpointError::Ipam(error) => ipam_code(error),
        EndpointError::Port(error) => port_code(error),
        EndpointError::Service(error) => service_code(error),
        EndpointError::Container { .. }
        | EndpointError::Name { .. }
        | EndpointError::HostNamespace { .. }
        | EndpointError::NoEndpoints { .. }
        | EndpointError::Bandwidth { .. }
        | EndpointError::Owner { .. }
        | EndpointError::Addresses { .. }
        | EndpointError::Apart { .. }
        | EndpointError::NoPorts { .. }
        | EndpointError::NotAttachable { .. }
        | EndpointError::SharedMac { .. }
        | EndpointError::NoIpv4 { .. }
        | EndpointError::NoIpv6 { .. } => ErrorCode::InvalidInput,
    }
}

fn ipam_code(error: &IpamError) -> ErrorCode {
    match error {
        IpamError::Overlap { .. } | IpamError::InUse { .. } => ErrorCode::Conflict,
        IpamError::NoFreeSubnet { .. } | IpamError::Exhausted { .. } => ErrorCode::Exhausted,
        IpamError::NoPool { .. } | IpamError::Outside { .. } | IpamError::Reserved { .. } => {
            ErrorCode::InvalidInput
        }
    }
}

fn port_code(error: &PortError) -> ErrorCode {
    match error {
        PortError::Invalid { .. } => ErrorCode::InvalidInput,
        PortError::Published { .. } | PortError::Bound { .. } => ErrorCode::Conflict,
        PortError::Exhausted { .. } => ErrorCode::Exhausted,
    }
}

fn service_code(error: &ServiceError) -> ErrorCode {
    match error {
        ServiceError::NotFound(_) | ServiceError::NoMember { .. } => ErrorCode::NotFound,
        ServiceError::Exists(_) | ServiceError::Changed { .. } => ErrorCode::Conflict,
        ServiceError::HasMembers { .. } | ServiceError::NetworkInUse { .. } => ErrorCode::InUse,
        ServiceError::Ipam(error) => ipam_code(error),
        ServiceError::Port(error) => port_code(error),
        ServiceError::Name(_)
        | ServiceError::Ambiguous(_)
        | ServiceError::Renamed(_)
        | ServiceError::NoPrevious(_)
        | ServiceError::Template(_)
        | ServiceError::NetworkTwice { .. }
        | ServiceError::Driver { .. }
        | ServiceError::DnsrrPort(_)
        | ServiceError::OneTarget(_)
        | ServiceError::Health(_)
        | ServiceError::Weight(_)
        | ServiceError::Drain
        | ServiceError::NotOnNetwork { .. }
        | ServiceError::NotReported { .. }
        | ServiceError::MixedNetworks { .. }
        | ServiceError::Elsewhere { .. }
        | ServiceError::Twice(_) => ErrorCode::InvalidInput,
    }
}
