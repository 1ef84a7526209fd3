//! Adapter roots: the directories that the API may read adapters from. Everything else is out of its reach, also by `..` and by
//! symbolic links, and answers do not tell whether something exists there.

use std::path::{Component, Path, PathBuf};

use super::RegistryError;

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
            if !self.roots.iter().any(|(_, root)| real.starts_with(root)) {
                escaped = true;
            } else if real.is_dir() {
                return Ok(real);
            }
        }
        Err(if escaped { refused(outside) } else { RegistryError::PathNotFound { path: given() } })
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

    #[test]
    fn without_roots_nothing_is_reached_and_missing_roots_are_named() {
        assert!(Roots::new(Vec::new()).unwrap().resolve(Path::new("a")).is_err());
        let error = Roots::new(vec![PathBuf::from("no/such/root")]).unwrap_err().to_string();
        assert!(error.contains("no/such/root"), "{error}");
    }
}
