//! Users and groups of the image: `/etc/passwd` and `/etc/group`, read as files.
//!
//! A static binary has no name service switch, so that directory services are not asked. Numbers
//! are read strictly: `4294967295` means "unchanged" to the kernel and is therefore refused.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, getgroups, getresgid, getresuid};

/// `USER[:GROUP]` as it was written: names or numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    user: String,
    group: Option<String>,
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Spec, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err("expected USER or USER:GROUP".into());
        }
        check_number(user)?;
        group.map(check_number).transpose()?;
        Ok(Spec { user: user.into(), group: group.map(Into::into) })
    }
}

/// A user as a process or a file has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// UID.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory; `/` where the user has no entry.
    pub home: PathBuf,
}

impl Identity {
    /// Whether this process is that user, in every way.
    pub(crate) fn is_ours(&self) -> bool {
        let uids = getresuid()
            .is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == self.uid));
        let gids = getresgid()
            .is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == self.gid));
        uids && gids && self.has_our_groups()
    }

    fn has_our_groups(&self) -> bool {
        let sorted = |mut groups: Vec<u32>| {
            groups.push(self.gid);
            groups.sort_unstable();
            groups.dedup();
            groups
        };
        let ours = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        sorted(ours) == sorted(self.groups.clone())
    }
}

/// Where the entries are read from: the directory that `passwd` and `group` are in.
#[derive(Debug, Clone)]
pub(crate) struct Database(pub PathBuf);

impl Default for Database {
    fn default() -> Database {
        Database("/etc".into())
    }
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Database {
    /// The owner of files that `spec` names. A user without a group gives its number as the group,
    /// as Docker's `COPY --chown` does.
    ///
    /// # Errors
    /// Says which name is not in which file.
    pub(crate) fn owner(&self, spec: &Spec) -> Result<(u32, u32), String> {
        let uid = match number(&spec.user) {
            Some(uid) => uid,
            None => self.user_named(&spec.user)?.uid,
        };
        let gid = match &spec.group {
            Some(group) => self.gid(group)?,
            None => uid,
        };
        Ok((uid, gid))
    }

    /// The identity that `spec` names: with the user's own groups unless a group is given. A number
    /// without an entry has group 0, as in a container runtime.
    ///
    /// # Errors
    /// Says which name is not in which file.
    pub(crate) fn identity(&self, spec: &Spec) -> Result<Identity, String> {
        let user = match number(&spec.user) {
            Some(uid) => self.users().into_iter().find(|user| user.uid == uid).unwrap_or(User {
                name: String::new(),
                uid,
                gid: 0,
                home: PathBuf::from("/"),
            }),
            None => self.user_named(&spec.user)?,
        };
        let (gid, groups) = match &spec.group {
            Some(group) => {
                let gid = self.gid(group)?;
                (gid, vec![gid])
            }
            None => {
                let mut groups = vec![user.gid];
                for group in self.groups() {
                    let member = group.members.contains(&user.name) && !user.name.is_empty();
                    if member && !groups.contains(&group.gid) {
                        groups.push(group.gid);
                    }
                }
                (user.gid, groups)
            }
        };
        Ok(Identity { uid: user.uid, gid, groups, home: user.home })
    }

    fn gid(&self, group: &str) -> Result<u32, String> {
        if let Some(gid) = number(group) {
            return Ok(gid);
        }
        self.groups()
            .into_iter()
            .find(|entry| entry.name == group)
            .map(|entry| entry.gid)
            .ok_or_else(|| format!("no group '{group}' in {}", self.0.join("group").display()))
    }

    fn user_named(&self, name: &str) -> Result<User, String> {
        self.users()
            .into_iter()
            .find(|user| user.name == name)
            .ok_or_else(|| format!("no user '{name}' in {}", self.0.join("passwd").display()))
    }

    fn users(&self) -> Vec<User> {
        lines(&self.0.join("passwd"))
            .iter()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
                Some(User { name: name.into(), uid: number(uid)?, gid: number(gid)?, home: home.into() })
            })
            .collect()
    }

    fn groups(&self) -> Vec<Group> {
        lines(&self.0.join("group"))
            .iter()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, gid, members, ..] = fields[..] else { return None };
                let members = members.split(',').filter(|member| !member.is_empty()).map(Into::into);
                Some(Group { name: name.into(), gid: number(gid)?, members: members.collect() })
            })
            .collect()
    }
}

/// Lines of a file that may be missing (an image FROM scratch has none) and need not be UTF-8.
fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number != u32::MAX)
}

/// What begins like a number must be one.
fn check_number(text: &str) -> Result<(), String> {
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    if numeric && number(text).is_none() {
        return Err(format!("'{text}' is neither a name nor a number from 0 to 4294967294"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) {
        assert!(text.parse::<Spec>().is_err(), "{text} was accepted");
    }

    #[test]
    fn numbers_are_strict() {
        for text in [
            "4294967296",
            "4294967295",
            "-1",
            "+1",
            "0day",
            "0x10",
            "1.5",
            "33:-1",
            "",
            ":33",
            "33:",
            "a:b:c",
        ] {
            refused(text);
        }
    }

    #[test]
    fn a_user_brings_its_groups_unless_one_is_given() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n")
            .unwrap();
        fs::write(dir.path().join("group"), "web:x:33:\nlogs:x:4:web,root\nother:x:9:root\n").unwrap();
        let users = Database(dir.path().to_owned());
        let identity = |text: &str| users.identity(&text.parse().unwrap());
        assert_eq!(identity("web").unwrap().groups, [33, 4]);
        assert_eq!(identity("33").unwrap(), identity("web").unwrap());
        assert_eq!(identity("web:logs").unwrap().groups, [4]);
        assert_eq!(identity("1234").unwrap().gid, 0);
        assert!(identity("nobody").unwrap_err().contains("no user 'nobody'"));
        assert_eq!(users.owner(&"web".parse().unwrap()), Ok((33, 33)));
        assert_eq!(users.owner(&"web:logs".parse().unwrap()), Ok((33, 4)));
    }
}
