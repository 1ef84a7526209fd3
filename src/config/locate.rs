//! Where things are when nobody says: the data directory, the hub's cache, and the base that comes with switchyard.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::HubConfig;

/// The bundled base on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// GGUF file.
    pub model: PathBuf,
    /// Directory of the bundled adapters.
    pub adapter_root: PathBuf,
    /// The adapters that are there, by name.
    pub adapters: Vec<(String, PathBuf)>,
}

/// The bundled base's file.
const MODEL: &str = "models/switchyard-base-q8_0.gguf";

/// Looks for the bundled base: in the current directory, beside the executable, and in the sources that it was built from.
pub fn bundle() -> Option<Bundle> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let places = [Some(PathBuf::from(".")), beside, Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")))];
    places.into_iter().flatten().find_map(|place| bundle_in(&place))
}

fn bundle_in(place: &Path) -> Option<Bundle> {
    let model = place.join(MODEL);
    if !model.is_file() {
        return None;
    }
    let adapter_root = place.join("adapters");
    let mut adapters: Vec<(String, PathBuf)> = std::fs::read_dir(&adapter_root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("adapter_config.json").is_file())
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    adapters.sort();
    Some(Bundle { model, adapter_root, adapters })
}

fn variable<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a Path> {
    let (_, value) = variables.iter().find(|(key, value)| key == name && !value.is_empty())?;
    Some(Path::new(value))
}

pub(super) fn data_dir(variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    // The XDG specification: relative paths are invalid and to be ignored.
    if let Some(xdg) = variable(variables, "XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Some(xdg.join("switchyard"));
    }
    if cfg!(windows) {
        return variable(variables, "LOCALAPPDATA").map(|local| local.join("switchyard"));
    }
    let home = variable(variables, "HOME")?;
    Some(if cfg!(target_os = "macos") {
        home.join("Library/Application Support/switchyard")
    } else {
        home.join(".local/share/switchyard")
    })
}

pub(super) fn hub(variables: &[(OsString, OsString)]) -> Result<HubConfig, (&'static str, String)> {
    let text = |name: &'static str| match variable(variables, name) {
        None => Ok(None),
        Some(value) => value.to_str().map(|text| Some(text.to_owned())).ok_or((name, "is not UTF-8".to_owned())),
    };
    // The order of Python's huggingface_hub, so that both find the same files.
    let home = variable(variables, "HF_HOME").map(Path::to_owned).or_else(|| {
        let cache = variable(variables, "XDG_CACHE_HOME").map(Path::to_owned);
        let in_home =
            || variable(variables, "HOME").or_else(|| variable(variables, "USERPROFILE")).map(|home| home.join(".cache"));
        Some(cache.or_else(in_home)?.join("huggingface"))
    });
    // Without any home the current directory serves; it is only used when a hub id is asked for.
    let home = home.unwrap_or_else(|| PathBuf::from(".cache/huggingface"));
    let cache = variable(variables, "HF_HUB_CACHE").map_or_else(|| home.join("hub"), Path::to_owned);
    let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".to_owned());
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(("HF_ENDPOINT", format!("{endpoint:?} is not an address like https://huggingface.co")));
    }
    let token = match text("HF_TOKEN")? {
        Some(token) => Some(token),
        None => std::fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_owned()).filter(|t| !t.is_empty()),
    };
    let offline =
        text("HF_HUB_OFFLINE")?.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"));
    Ok(HubConfig { cache, endpoint: endpoint.trim_end_matches('/').to_owned(), token, offline })
}
