//! A data plane for one test.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use netd::bpf::{DataPlane, Frontend, FrontendAddress, Mode, Options};

/// How packets of published ports may go.
pub(crate) const MODES: [Mode; 3] = [Mode::Compat, Mode::Hybrid, Mode::Fast];

/// A data plane with pins of its own, which go with it.
pub(crate) struct Instance {
    pub(crate) options: Options,
    plane: Option<Arc<DataPlane>>,
}

impl Instance {
    #[track_caller]
    pub(crate) fn open(name: &str, cgroup: Option<PathBuf>) -> Self {
        let instance = format!("test-{}-{name}", std::process::id());
        let options = Options {
            pin_dir: PathBuf::from("/sys/fs/bpf/hawser")
                .join(instance)
                .join("v1"),
            cgroup,
            sizes: BTreeMap::new(),
        };
        let mut instance = Self {
            options,
            plane: None,
        };
        // Built first, so that what an error leaves behind is removed.
        let plane = DataPlane::open(&instance.options).unwrap_or_else(|error| panic!("{error}"));
        instance.plane = Some(Arc::new(plane));
        instance
    }

    /// In a mode that becomes part of its name.
    #[track_caller]
    pub(crate) fn open_in(mode: Mode, name: &str, cgroup: Option<PathBuf>) -> Self {
        let instance = Self::open(&format!("{name}-{}", mode as u32), cgroup);
        instance.set_mode(mode).unwrap();
        instance
    }

    /// As after `kill -9`: nothing is said to the kernel but what closing descriptors says.
    pub(crate) fn close(&mut self) {
        self.plane = None;
    }

    pub(crate) fn reopen(&mut self) {
        self.plane = Some(Arc::new(DataPlane::open(&self.options).unwrap()));
    }

    /// As a daemon with tables of other sizes does.
    pub(crate) fn upgrade(&mut self, sizes: &[(&'static str, u32)]) {
        self.close();
        self.options.sizes = sizes.iter().copied().collect();
        self.reopen();
    }

    pub(crate) fn shared(&self) -> Arc<DataPlane> {
        Arc::clone(self.plane.as_ref().expect("the instance is open"))
    }
}

impl Deref for Instance {
    type Target = DataPlane;

    fn deref(&self) -> &DataPlane {
        self.plane.as_ref().expect("the instance is open")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.plane = None;
        if let Err(error) = DataPlane::uninstall(&self.options) {
            eprintln!("{}: {error}", self.options.pin_dir.display());
        }
    }
}

/// `any4:80/tcp`, `any6:53/udp`, `any4:8000+100/tcp` or `1.2.3.4:80/tcp`, `[fd00::1]:80/tcp`.
pub(crate) fn frontend(text: &str) -> Frontend {
    let (address, protocol) = text.rsplit_once('/').unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let address = match host {
        "any4" => FrontendAddress::Any4,
        "any6" => FrontendAddress::Any6,
        ip => FrontendAddress::Ip(ip.trim_matches(['[', ']']).parse().unwrap()),
    };
    let (port, count) = port.split_once('+').unwrap_or((port, "1"));
    Frontend {
        address,
        protocol: protocol.parse().unwrap(),
        port: port.parse().unwrap(),
        count: count.parse().unwrap(),
    }
}
