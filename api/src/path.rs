//! Where things are unless told otherwise, and the routes of the daemon's socket.

/// Durable state: `meta.redb`, `overlay2/`, `volumes/`, `containers/`.
pub const STATE_DIR: &str = "/var/lib/hawser";
/// Boot-scoped state: the sockets, endpoints, leases.
pub const RUN_DIR: &str = "/run/hawser";
pub const CONFIG_FILE: &str = "/etc/hawser/hawserd.toml";
/// Directory of Docker volume-plugin sockets; ours is `hawser.sock` in it.
pub const VOLUME_PLUGIN_DIR: &str = "/run/docker/plugins";
/// Where CNI plugins are installed and looked for.
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// The daemon's socket below [`RUN_DIR`].
pub const SOCKET_NAME: &str = "hawserd.sock";
/// Below the state directory: the agent's records.
pub const AGENT_DIR: &str = "agent";
/// In [`AGENT_DIR`]. An agent whose lock is removed ends.
pub const AGENT_LOCK: &str = "lock";
/// Names the daemon's socket for clients: `unix:///run/hawser/hawserd.sock`.
pub const HOST_ENV: &str = "HAWSER_HOST";

/// Prefix of every route of this version of the protocol.
pub const API: &str = "/v1";

/// `GET`, plain text `OK`.
pub const PING: &str = "/v1/_ping";
/// `GET` [`crate::daemon::Version`].
pub const VERSION: &str = "/v1/version";
/// `GET` [`crate::daemon::Info`].
pub const INFO: &str = "/v1/info";
/// `GET` [`crate::doctor::Diagnosis`]; `POST` the same after repairing what differs.
pub const DOCTOR: &str = "/v1/doctor";
/// `GET` [`crate::traffic::Traffic`].
pub const TRAFFIC: &str = "/v1/traffic";
/// `GET` with [`crate::traffic::TraceQuery`]: lines of [`crate::traffic::TraceLine`], for as long as
/// the client reads.
pub const TRACE: &str = "/v1/trace";
/// `GET` with [`crate::event::EventQuery`]: lines of [`crate::event::Event`].
/// `POST` [`crate::event::Event`]: what the launcher has done, for whoever listens.
pub const EVENTS: &str = "/v1/events";
/// `GET`, Prometheus text format.
pub const METRICS: &str = "/metrics";

/// `GET` list of [`crate::net::Network`]. `GET|DELETE /v1/networks/{name-or-id}`.
pub const NETWORKS: &str = "/v1/networks";
/// `POST` [`crate::net::NetworkCreate`] → [`crate::net::NetworkCreated`].
pub const NETWORKS_CREATE: &str = "/v1/networks/create";
/// `GET /v1/networks/{network}/status`: whether an endpoint could be attached now. The refusal's
/// code tells a network that is full or missing from one that has lost a part (`unavailable`).
pub const STATUS: &str = "status";
/// `POST` → [`crate::daemon::Pruned`].
pub const NETWORKS_PRUNE: &str = "/v1/networks/prune";
/// `POST` [`crate::net::AttachRequest`] → [`crate::net::Attachment`].
/// `GET ?container=ID` list of [`crate::net::Attachment`].
/// `GET|DELETE /v1/endpoints/{container}/{ifname}`; the `GET` checks the kernel's state, with
/// `?mac=` for an interface that another link address was given to.
pub const ENDPOINTS: &str = "/v1/endpoints";
/// `POST` [`crate::net::EndpointRename`] → list of [`crate::net::Attachment`], empty for a container
/// without endpoints.
pub const ENDPOINTS_RENAME: &str = "/v1/endpoints/rename";
/// `POST /v1/endpoints/{container}/drain?wait=SECONDS` → [`crate::service::Drained`]: its services
/// send the container nothing new. Answers when its connections have ended, or after `wait`.
pub const DRAIN: &str = "drain";

/// `GET` [`crate::swarm::Swarm`], of managers.
pub const SWARM: &str = "/v1/swarm";
/// `GET`: where managers are; workers may ask.
pub const SWARM_MANAGERS: &str = "/v1/swarm/managers";
/// `POST` [`crate::swarm::SwarmInit`] → [`crate::swarm::Membership`].
pub const SWARM_INIT: &str = "/v1/swarm/init";
/// `POST` [`crate::swarm::SwarmJoin`] → [`crate::swarm::Membership`].
pub const SWARM_JOIN: &str = "/v1/swarm/join";
/// `POST ?force=`.
pub const SWARM_LEAVE: &str = "/v1/swarm/leave";
/// `POST` [`crate::swarm::SwarmUpdate`].
pub const SWARM_UPDATE: &str = "/v1/swarm/update";
/// `POST /v1/swarm/rotate/{worker|manager}`: another token.
pub const SWARM_ROTATE: &str = "/v1/swarm/rotate";
/// `POST` [`crate::swarm::SwarmRotation`]: another authority.
pub const SWARM_CA: &str = "/v1/swarm/ca";
/// `GET` [`crate::swarm::SwarmKey`], of managers.
pub const SWARM_UNLOCK_KEY: &str = "/v1/swarm/unlockkey";
/// `POST` [`crate::swarm::SwarmKey`] to a manager that is locked.
pub const SWARM_UNLOCK: &str = "/v1/swarm/unlock";
/// `GET` the text of a backup, of managers.
pub const SWARM_BACKUP: &str = "/v1/swarm/backup";
/// `POST` the text of a backup, behind a line with its unlock key if it has one, `?force=&advertise=` → [`crate::swarm::Membership`].
pub const SWARM_RESTORE: &str = "/v1/swarm/restore";
/// `GET` list of [`crate::swarm::Node`]. `GET /v1/nodes/{node}`; `DELETE ?force=`.
pub const NODES: &str = "/v1/nodes";
/// `POST /v1/nodes/{node}/update` [`crate::swarm::NodeUpdate`].
pub const NODE_UPDATE: &str = "update";
/// `GET /v1/nodes/{node}/output?request=JSON` with a [`crate::work::OutputRequest`]: frames of a task's
/// output (`docs/adr/0039-output-of-replicas.md`), of managers.
pub const NODE_OUTPUT: &str = "output";
/// Below the run directory: where the agent answers the same request, as a line of JSON.
pub const AGENT_SOCKET: &str = "agent.sock";
/// `GET ?all=`: [`crate::work::Work`], or null on a host in no cluster; with `all` every node's part
/// whoever leads. `POST` [`crate::work::WorkChange`].
pub const WORK: &str = "/v1/work";
/// `GET` list of [`crate::service::Service`]. `GET|DELETE /v1/services/{name-or-id}`; a `DELETE` of
/// one that has members needs `?force=true`.
pub const SERVICES: &str = "/v1/services";
/// `POST` [`crate::service::ServiceSpec`] → [`crate::service::Service`].
pub const SERVICES_CREATE: &str = "/v1/services/create";
/// `POST /v1/services/{service}/update?version=INDEX` [`crate::service::ServiceSpec`]
/// → [`crate::service::Service`]; refused when the service has another version by now.
pub const SERVICE_UPDATE: &str = "update";
/// Below a service: back to what the last update replaced.
pub const SERVICE_ROLLBACK: &str = "rollback";
/// Below a service: how far an update is, from whoever carries it out.
pub const SERVICE_UPDATE_STATUS: &str = "update-status";
/// `POST /v1/services/{service}/members/{container}` [`crate::service::MemberUpdate`]
/// → [`crate::service::Service`].
pub const SERVICE_MEMBERS: &str = "members";
/// `GET`: the logins for registries that a service keeps, by host; for whoever pulls its image.
pub const SERVICE_LOGINS: &str = "logins";

/// `GET` list of [`crate::storage::Volume`]. `GET|DELETE /v1/volumes/{name}`.
pub const VOLUMES: &str = "/v1/volumes";
/// `POST` [`crate::storage::VolumeCreate`] → [`crate::storage::Volume`].
pub const VOLUMES_CREATE: &str = "/v1/volumes/create";
/// `GET ?names=NAME,NAME` (all without) list of [`crate::storage::VolumeStats`].
pub const VOLUMES_STATS: &str = "/v1/stats/volumes";
/// `POST` [`crate::storage::VolumePrune`] → [`crate::daemon::Pruned`].
pub const VOLUMES_PRUNE: &str = "/v1/volumes/prune";
/// `POST` [`crate::storage::VolumePrune`] → list of [`crate::storage::PruneCandidate`].
pub const VOLUMES_PRUNE_PLAN: &str = "/v1/volumes/prune/plan";
/// `GET` list of [`crate::storage::TrashedVolume`], `DELETE` all → [`crate::daemon::Pruned`].
/// `POST /v1/trash/volumes/{name}` brings one back → [`crate::storage::Volume`].
pub const VOLUMES_TRASH: &str = "/v1/trash/volumes";
/// `GET` list of all volumes' [`crate::storage::Snapshot`].
pub const SNAPSHOTS: &str = "/v1/snapshots";
/// `GET|POST /v1/volumes/{name}/snapshots` [`crate::storage::SnapshotCreate`]
/// → [`crate::storage::Snapshot`]. `POST|DELETE /v1/volumes/{name}/snapshots/{snapshot}`: the
/// `POST` makes the volume what it was then.
pub const VOLUME_SNAPSHOTS: &str = "snapshots";
/// `POST /v1/volumes/{name}/clone` [`crate::storage::VolumeClone`] → [`crate::storage::Volume`].
pub const VOLUME_CLONE: &str = "clone";
/// `GET /v1/volumes/{name}/archive?live=BOOL`: all it holds as one stream, which is whole only if the
/// reply ends with its last chunk. `POST /v1/volumes/{name}/archive?request=JSON` with such a stream and
/// a [`crate::storage::VolumeImport`] → [`crate::storage::Volume`].
pub const VOLUME_ARCHIVE: &str = "archive";
/// `POST /v1/volumes/{name}/unlock` [`crate::storage::VolumeUnlock`] → [`crate::storage::Volume`].
pub const VOLUME_UNLOCK: &str = "unlock";
/// `POST /v1/volumes/{name}/lock`: takes the key away.
pub const VOLUME_LOCK: &str = "lock";
/// `POST /v1/volumes/{name}/resize` [`crate::storage::VolumeResize`] → [`crate::storage::Volume`].
pub const VOLUME_RESIZE: &str = "resize";
/// `POST /v1/volumes/{name}/populate` [`crate::storage::VolumePopulate`]: copy-up of image data.
pub const VOLUME_POPULATE: &str = "populate";
/// `POST|DELETE /v1/volumes/{name}/users/{container}`: a container refers to the volume, mounted
/// or not. A `POST` with `?group=NUMBER` tells what control group of version 2 it runs in, which has
/// the volume mounted by the container's id: the inode of the group's directory.
pub const VOLUME_USERS: &str = "users";

/// `POST ?parent=CHAIN&diff_id=DIGEST`, body a tar stream (plain, gzip or zstd)
/// → [`crate::storage::Layer`]. With `&meanwhile=true` and a `diff_id` the parent may still be on its
/// way, or about to be: the layer is unpacked meanwhile and committed after it.
/// `GET` list of [`crate::storage::Layer`].
pub const LAYERS: &str = "/v1/layers";
/// `GET /v1/layers/{chain}/archive`: the tar stream that the layer was made of, uncompressed. A
/// reply that ends without its last chunk is not the layer.
pub const LAYER_ARCHIVE: &str = "archive";
/// `GET` list of [`crate::storage::Image`]. `POST` [`crate::storage::ImageCreate`]
/// → [`crate::storage::Image`]. `GET|DELETE /v1/images/{reference}` (slashes escaped as `%2F`);
/// `DELETE ?force=true` → list of lines such as `Untagged: x:latest`.
pub const IMAGES: &str = "/v1/images";
/// `POST` [`crate::storage::ImagePrune`] → [`crate::daemon::Pruned`], whose lines are such as
/// `untagged: x:latest`.
pub const IMAGES_PRUNE: &str = "/v1/images/prune";
/// `POST` [`crate::storage::RootfsCreate`] → [`crate::storage::Rootfs`].
/// `GET|DELETE /v1/rootfs/{container}`, `POST /v1/rootfs/{container}/mount`
/// → [`crate::storage::RootfsMount`], `POST /v1/rootfs/{container}/unmount`.
pub const ROOTFS: &str = "/v1/rootfs";
/// `GET /v1/rootfs/{container}/changes`: list of [`crate::storage::RootfsChange`].
/// Query of a mount: files belong to the ids that they have on disk.
pub const ROOTFS_AS_KEPT: &str = "as_kept=true";
/// Query of a mount, with the path of a Unix socket: the mount is sent to who listens there, by a
/// descriptor (`SCM_RIGHTS`, unix(7)), and no other process sees it. A driver that needs no mount, or a
/// daemon that cannot, answers with a path as without.
pub const ROOTFS_HAND_TO: &str = "hand_to";

pub const ROOTFS_CHANGES: &str = "changes";
/// `GET /v1/rootfs/{container}/archive`: all of it as a tar stream.
pub const ROOTFS_ARCHIVE: &str = "archive";
/// `POST /v1/rootfs/{container}/commit` → [`crate::storage::Layer`]: the changes as a layer on top of
/// the image's.
pub const ROOTFS_COMMIT: &str = "commit";
/// `POST /v1/rootfs/{container}/resize` [`crate::storage::RootfsResize`] → [`crate::storage::Rootfs`]: it
/// may write more.
pub const ROOTFS_RESIZE: &str = "resize";

/// `POST` [`crate::storage::StorageCheck`] → [`crate::storage::StorageReport`].
pub const STORAGE_CHECK: &str = "/v1/storage/check";
/// `GET` [`crate::storage::StorageUsage`].
pub const STORAGE_USAGE: &str = "/v1/storage/usage";
