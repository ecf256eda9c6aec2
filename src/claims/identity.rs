//! Who this replica is, as others are told.

use super::beat::Holder;
use crate::volume::records;
use crate::volume::records::FORMAT;

/// This replica.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    host: String,
    container: Option<String>,
    boot: Option<String>,
    /// The volume's device number.
    device: u64,
}

impl Me {
    /// This process, at a volume with this device number.
    pub(crate) fn at(device: u64) -> Me {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mounts = read("/proc/self/mountinfo");
        let names = mounts.lines().filter(|line| line.contains("/hostname "));
        let container = container(&read("/proc/self/cgroup")).or_else(|| names.filter_map(container).next());
        Me { host, container, boot: records::boot_id(), device }
    }

    /// What a claim of ours says, whose number is not known yet.
    pub(crate) fn holder(&self, locked: bool) -> Holder {
        // A number that nobody has had (random(4)).
        let nonce = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        let nonce = match nonce.trim() {
            "" => {
                format!("{}-{}-{}", std::process::id(), records::now(), super::disk::boot_time().as_nanos())
            }
            nonce => nonce.to_owned(),
        };
        Holder {
            format: FORMAT,
            epoch: 0,
            nonce,
            host: self.host.clone().into(),
            container: self.container.clone().map(Into::into),
            pid: std::process::id(),
            since: records::now(),
            boot: self.boot.clone(),
            device: self.device,
            locked,
        }
    }

    /// Whether a claim was made under this kernel, on the file system that is mounted here.
    pub(crate) fn shares_mount_with(&self, holder: &Holder) -> bool {
        self.boot.is_some() && self.boot == holder.boot && self.device == holder.device
    }
}

/// The first digits of a container's id, as `docker ps` shows them: 64 hexadecimal digits in the name of
/// its control group or in the path of the files that it was given.
fn container(text: &str) -> Option<String> {
    let runs = text.split(|sign: char| !sign.is_ascii_hexdigit());
    runs.filter(|run| run.len() == 64).map(|id| id[..12].to_owned()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_id_is_found_where_docker_and_kubernetes_leave_it() {
        let id = "4b6f0c9c1d3e5f708192a3b4c5d6e7f8".repeat(2);
        let short = Some("4b6f0c9c1d3e".to_owned());
        assert_eq!(container(&format!("0::/system.slice/docker-{id}.scope\n")), short);
        assert_eq!(container(&format!("0::/kubepods/pod1/{id}\n")), short);
        assert_eq!(
            container(&format!("9 8 254:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw")),
            short
        );
        assert_eq!(container("0::/\n"), None);
    }
}
