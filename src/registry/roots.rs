//! Adapter roots: the directories that the API may read adapters from. Everything else is out of its reach, also by `..` and by
//! symbolic links, and answers do not tell whether something exists there.

use std::path::{Component, Path, PathBuf};

use super::RegistryError;
use crate::model::lora::peft::{CONFIG_FILE, WEIGHTS_FILE};

#[derive(Debug)]
pub(super) struct Roots {
    /// As configured (made absolute), and with symbolic links resolved.
    roots: Vec<(PathBuf, PathBuf)>,
}

impl Roots {
    pub(super) fn new(configured: Vec<PathBuf>) -> Result<Self, RegistryError> {
        let resolve = |path: PathBuf| {
            let made = std::path::absolute(&path).and_then(|absolute| Ok((absolute, std::fs::canonicalize(&path)?)));
            made.map_err(|source| RegistryError::Root { path, source })
        };
        Ok(Self { roots: configured.into_iter().map(resolve).collect::<Result<_, _>>()? })
    }

    /// The directory that a client means, symbolic links resolved; inside a root.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, RegistryError> {
        let given = || path.to_string_lossy().chars().take(256).collect::<String>();
        let refused = |reason| RegistryError::PathRefused { path: given(), reason };
        if self.roots.is_empty() {
            return Err(refused("this server has no adapter root (--adapter-root)"));
        }
        if path.as_os_str().is_empty() {
            return Err(refused("it is empty"));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refused("it must not contain '..'"));
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(refused("it contains a zero byte"));
        }
        let outside = "it is not inside an adapter root (--adapter-root)";
        let mut escaped = false;
        // An absolute path replaces the root that it is joined to.
        for candidate in self.roots.iter().map(|(configured, _)| configured.join(path)) {
            if !self.roots.iter().any(|(plain, real)| candidate.starts_with(plain) || candidate.starts_with(real)) {
                return Err(refused(outside));
            }
            let Ok(real) = std::fs::canonicalize(&candidate) else { continue };
            if !self.inside(&real) {
                escaped = true;
            } else if real.is_dir() {
                let leaves = |name| std::fs::canonicalize(real.join(name)).is_ok_and(|file| !self.inside(&file));
                if [CONFIG_FILE, WEIGHTS_FILE].into_iter().any(leaves) {
                    return Err(refused("one of its files is a symbolic link that leaves the adapter roots"));
                }
                return Ok(real);
            }
        }
        Err(if escaped { refused(outside) } else { RegistryError::PathNotFound { path: given() } })
    }

    /// True for a path without symbolic links that lies in a root.
    fn inside(&self, real: &Path) -> bool {
        self.roots.iter().any(|(_, root)| real.starts_with(root))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_directories_inside_the_roots_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for made in ["one/a", "two/b/c", "secret/d", "one-more/x"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        std::fs::write(at("one/file"), b"").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("secret"), at("one/link")).unwrap();
            std::os::unix::fs::symlink(at("two/b"), at("one/across")).unwrap();
        }
        let roots = Roots::new(vec![at("one"), at("two")]).unwrap();
        let real = |path: &str| std::fs::canonicalize(at(path)).unwrap();
        assert_eq!(roots.resolve(Path::new("a")).unwrap(), real("one/a"));
        assert_eq!(roots.resolve(Path::new("./b/c")).unwrap(), real("two/b/c"));
        assert_eq!(roots.resolve(&at("two/b")).unwrap(), real("two/b"));
        #[cfg(unix)]
        assert_eq!(roots.resolve(Path::new("across/c")).unwrap(), real("two/b/c"));

        let refused = |path: &Path| match roots.resolve(path).unwrap_err() {
            error @ RegistryError::PathRefused { .. } => error.to_string(),
            other => panic!("{path:?}: {other}"),
        };
        for path in ["../secret/d", "a/../../secret/d", "a/..", "", "/", "/etc", "link", "link/d"] {
            refused(Path::new(path));
        }
        for path in ["secret/d", "one-more/x", "secret/absent"] {
            let text = refused(&at(path));
            assert!(!text.contains("one-more\" is") && text.contains("adapter root"), "{text}");
        }
        // Outside the roots the answer is the same whether something is there or not; inside, a missing one says so.
        for path in ["absent", "file", "a\nb"] {
            assert!(matches!(roots.resolve(Path::new(path)), Err(RegistryError::PathNotFound { .. })), "{path}");
        }
        let text = roots.resolve(Path::new("absent")).unwrap_err().to_string();
        assert!(!text.contains(&*dir.path().to_string_lossy()), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn files_that_are_links_must_stay_in_the_roots_too() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for name in [CONFIG_FILE, WEIGHTS_FILE] {
            for made in ["root/blobs", "root/inside", "root/outside", "secret"] {
                std::fs::create_dir_all(at(made)).unwrap();
            }
            std::fs::write(at("root/blobs").join(name), b"x").unwrap();
            std::fs::write(at("secret/file"), b"x").unwrap();
            std::os::unix::fs::symlink(Path::new("../blobs").join(name), at("root/inside").join(name)).unwrap();
            std::os::unix::fs::symlink(at("secret/file"), at("root/outside").join(name)).unwrap();
            let roots = Roots::new(vec![at("root")]).unwrap();
            roots.resolve(Path::new("inside")).unwrap();
            let error = roots.resolve(Path::new("outside")).unwrap_err();
            let refused = matches!(&error, RegistryError::PathRefused { path, .. } if path == "outside");
            assert!(refused && !error.to_string().contains("secret"), "{error}");
            std::fs::remove_dir_all(dir.path().join("root")).unwrap();
        }
    }

    #[test]
    fn without_roots_nothing_is_reached_and_missing_roots_are_named() {
        assert!(Roots::new(Vec::new()).unwrap().resolve(Path::new("a")).is_err());
        let error = Roots::new(vec![PathBuf::from("no/such/root")]).unwrap_err().to_string();
        assert!(error.contains("no/such/root"), "{error}");
    }
}
