//! `multipart/form-data` (RFC 7578) as a stream: texts and files of any size, with a length that is known before.

use std::path::PathBuf;

use futures::stream::{self, StreamExt, TryStreamExt};
use rand::RngCore;
use reqwest::Body;
use tokio::io::AsyncReadExt;

/// Bytes read from a file at a time.
const CHUNK: usize = 256 * 1024;

/// One part of a form. Names are ours and need no quoting.
#[derive(Debug, Clone)]
pub enum Part {
    /// A short text.
    Text {
        /// Its name.
        name: &'static str,
        /// The text.
        value: String,
    },
    /// A file, sent under its name.
    File {
        /// Name of the part and of the file.
        name: &'static str,
        /// Where it is.
        path: PathBuf,
    },
}

/// A form that is ready to be sent.
pub(super) struct Encoded {
    pub(super) content_type: String,
    pub(super) length: u64,
    pub(super) body: Body,
}

/// Opens the files, so that one that is missing is known before anything is sent.
pub(super) async fn encode(parts: Vec<Part>) -> std::io::Result<Encoded> {
    let mut random = [0u8; 16];
    rand::rng().fill_bytes(&mut random);
    let boundary = format!("switchyard-{:032x}", u128::from_be_bytes(random));
    let (mut length, mut pieces) = (0u64, Vec::new());
    for part in parts {
        let opening = match &part {
            Part::Text { name, value } => {
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
            }
            Part::File { name, .. } => format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            ),
        };
        length += opening.len() as u64;
        pieces.push(Piece::Text(opening));
        if let Part::File { path, .. } = part {
            let file = tokio::fs::File::open(&path).await?;
            let bytes = file.metadata().await?.len();
            length += bytes + 2;
            // A file that grows meanwhile is sent as long as it was.
            pieces.push(Piece::File(Box::new(file.take(bytes))));
            pieces.push(Piece::Text("\r\n".to_owned()));
        }
    }
    let end = format!("--{boundary}--\r\n");
    length += end.len() as u64;
    pieces.push(Piece::Text(end));
    let chunks = stream::iter(pieces).map(Ok::<_, std::io::Error>).and_then(async |piece| Ok(piece.chunks())).try_flatten();
    Ok(Encoded { content_type: format!("multipart/form-data; boundary={boundary}"), length, body: Body::wrap_stream(chunks) })
}

enum Piece {
    Text(String),
    File(Box<tokio::io::Take<tokio::fs::File>>),
}

impl Piece {
    fn chunks(self) -> stream::BoxStream<'static, std::io::Result<Vec<u8>>> {
        match self {
            Self::Text(text) => stream::once(async move { Ok(text.into_bytes()) }).boxed(),
            Self::File(file) => stream::try_unfold(file, async |mut file| {
                let mut chunk = Vec::with_capacity(CHUNK);
                // `take` ends it: a chunk is at most what was asked for.
                let read = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
                Ok((read > 0).then_some((chunk, file)))
            })
            .boxed(),
        }
    }
}
