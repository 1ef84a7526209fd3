//! `switchyard train --repeat`: a record of a training, its files found and checked, and what came of it beside what came then.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::ids::hex;
use crate::model::lora::peft::AdapterFiles;
use crate::store::blobs;
use crate::training::run_record::{Data, FileFacts, MAX_RECORD, Outcome, RunRecord};
use crate::training::trainer::{Made, Program};

/// A training that is to be done again.
pub(super) struct Repeat {
    pub(super) made: Made,
    pub(super) data: Data,
    /// What came of it.
    pub(super) result: Outcome,
    /// Rows to learn from.
    pub(super) training: PathBuf,
    /// Rows to judge by.
    pub(super) validation: Option<PathBuf>,
}

/// What was named beside the record.
pub(super) struct Named<'a> {
    pub(super) training: Option<&'a Path>,
    pub(super) validation: Option<&'a Path>,
    pub(super) from: Option<&'a Path>,
    /// Where the files of a server's clients are.
    pub(super) data_dir: &'a Path,
}

impl Repeat {
    /// Reads a record and finds its files; what differs from them is refused.
    pub(super) fn read(path: &Path, named: &Named<'_>) -> anyhow::Result<Self> {
        let at = || path.display().to_string();
        let bytes = crate::store::read_limited(path, MAX_RECORD).with_context(at)?;
        let record = RunRecord::parse(&bytes).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
        let RunRecord { outcome, error, made, data, result, .. } = record;
        let (Some(made), Some(data), Some(result)) = (made, data, result) else {
            let why = error.map_or(String::new(), |error| format!(": {error}"));
            bail!("{}: that training made no adapter (it is {outcome}{why}); there is nothing to repeat", path.display());
        };
        let training = find("the data", &data.training, named.training, named.data_dir)?;
        let validation = match (&data.validation, named.validation) {
            (Some(facts), given) => Some(find("the validation file", facts, given, named.data_dir)?),
            (None, Some(given)) => bail!("--validation {}: that training had none", given.display()),
            (None, None) => None,
        };
        match (&made.from, named.from) {
            (None, None) => {}
            (None, Some(given)) => bail!("--from {}: that training began with a fresh adapter", given.display()),
            (Some(digest), None) => bail!("that training went on from the adapter {digest}; name its directory with --from"),
            (Some(digest), Some(given)) => {
                let found = adapter_digest(given)?;
                ensure!(found == *digest, "--from {}: its digest is {found}, in the record it is {digest}", given.display());
            }
        }
        Ok(Self { made, data, result, training, validation })
    }

    /// Refuses another base.
    pub(super) fn check_base(&self, name: &str, digest: &str, quantization: Option<&str>) -> anyhow::Result<()> {
        let base = &self.made.base;
        ensure!(
            base.digest == digest,
            "the base differs: {name} has the digest {digest}, in the record {} has {}; --model names another",
            base.name,
            base.digest
        );
        let kept = |kept: Option<&str>| kept.unwrap_or("not quantized").to_owned();
        let (here, there) = (kept(quantization), kept(base.quantization.as_deref()));
        ensure!(here == there, "the base is kept differently: {here}, in the record {there}; --quant sets that");
        Ok(())
    }

    /// What may make the result another one although nothing that was asked for differs.
    pub(super) fn differences(&self, here: &Made) -> Vec<String> {
        let mut told = Vec::new();
        let program = |program: &Program| {
            let commit = program.commit.as_ref().map_or(String::new(), |commit| format!(" ({commit})"));
            format!("switchyard {}{commit}", program.version)
        };
        let compute = |made: &Made| format!("{} with {:?}", made.kernels, made.compute).to_lowercase();
        let pairs = [(program(&here.program), program(&self.made.program)), (compute(here), compute(&self.made))];
        for (here, there) in pairs.iter().filter(|(here, there)| here != there) {
            told.push(format!("this is {here}, the record is of {there}: the result may differ"));
        }
        told
    }
}

/// Digest of an adapter's directory.
pub(super) fn adapter_digest(dir: &Path) -> anyhow::Result<String> {
    let files = AdapterFiles::read(dir).with_context(|| dir.display().to_string())?;
    Ok(files.digest().with_context(|| dir.display().to_string())?.to_string())
}

/// What a file is.
pub(super) fn facts(path: &Path) -> anyhow::Result<FileFacts> {
    let io = || path.display().to_string();
    let mut file = File::open(path).with_context(io)?;
    let mut hash = Sha256::new();
    let bytes = std::io::copy(&mut file, &mut hash).with_context(io)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(FileFacts { name, bytes, sha256: hex(&hash.finalize()), path: std::path::absolute(path).ok() })
}

/// Where a file of a record is: where it was said to be, else where it was then, else among the files that a server keeps.
fn find(what: &str, wanted: &FileFacts, given: Option<&Path>, data_dir: &Path) -> anyhow::Result<PathBuf> {
    let kept = blobs::place(data_dir, &wanted.sha256);
    let places = match given {
        Some(given) => vec![given.to_owned()],
        None => wanted.path.iter().cloned().chain([kept]).filter(|path| path.is_file()).collect(),
    };
    let mut found = None;
    for path in places {
        let facts = facts(&path)?;
        if facts.sha256 == wanted.sha256 {
            return Ok(path);
        }
        found.get_or_insert((path, facts.sha256));
    }
    let (name, digest) = (&wanted.name, &wanted.sha256);
    match found {
        Some((path, other)) => {
            bail!("{what} differs: {} has the digest {other}, in the record {name} has {digest}", path.display())
        }
        None => bail!(
            "{what} of the record, {name} with the digest {digest}, is neither where it was nor among the files in {}; name it",
            data_dir.display()
        ),
    }
}
