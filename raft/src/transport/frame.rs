//! Frames: how messages lie on a connection.
//!
//! A frame is `[head length: u32][body length: u32][head][body]`, lengths big-endian. The head is a
//! record of [`crate::codec`]; the body is bytes that are neither encoded nor copied on their way
//! (payloads of entries, chunks of snapshots, requests of the peer service). A frame over its limit
//! ends the connection before anything is allocated for it.

use crate::codec;
use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};

/// Bytes of one head.
pub const HEAD_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one body: the greatest entry, with room for the entries that share its frame.
pub const BODY_LIMIT_BYTES: usize = 40 * 1024 * 1024;

const BUFFER_BYTES: usize = 64 * 1024;

/// Reads frames.
pub struct FrameReader<R> {
    stream: BufReader<R>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream: BufReader::with_capacity(BUFFER_BYTES, stream),
        }
    }

    /// Reads the next frame. Not safe to cancel.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection ended, `InvalidData` for what is no frame.
    pub async fn read<H: DeserializeOwned>(&mut self) -> io::Result<(H, Bytes)> {
        let head_bytes = self.stream.read_u32().await? as usize;
        let body_bytes = self.stream.read_u32().await? as usize;
        if head_bytes > HEAD_LIMIT_BYTES || body_bytes > BODY_LIMIT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {head_bytes} and {body_bytes} bytes is over its limit"),
            ));
        }
        let mut bytes = BytesMut::zeroed(head_bytes + body_bytes);
        self.stream.read_exact(&mut bytes).await?;
        let head = bytes.split_to(head_bytes);
        let head = codec::decode(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((head, bytes.freeze()))
    }
}

/// Writes frames.
pub struct FrameWriter<W> {
    stream: BufWriter<W>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(stream: W) -> Self {
        Self {
            stream: BufWriter::with_capacity(BUFFER_BYTES, stream),
        }
    }

    /// Writes one frame; it may wait in the buffer until [`Self::flush`]. Not safe to cancel.
    ///
    /// # Errors
    /// `InvalidInput` when it is over its limit (nothing is written then), or the connection's.
    pub async fn write<H: Serialize>(&mut self, head: &H, body: &[Bytes]) -> io::Result<()> {
        let head = codec::encode(head);
        let body_bytes = body.iter().map(Bytes::len).sum::<usize>();
        if head.len() > HEAD_LIMIT_BYTES || body_bytes > BODY_LIMIT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a frame of {} and {body_bytes} bytes is over its limit",
                    head.len()
                ),
            ));
        }
        // Both fit: the limits are far below 4 GiB.
        self.stream.write_u32(head.len() as u32).await?;
        self.stream.write_u32(body_bytes as u32).await?;
        self.stream.write_all(&head).await?;
        for bytes in body {
            self.stream.write_all(bytes).await?;
        }
        Ok(())
    }

    /// Sends what waits in the buffer.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_written() {
        let (near, far) = tokio::io::duplex(64);
        let write = async {
            let mut writer = FrameWriter::new(near);
            let body = [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from(vec![7; 500])];
            writer.write(&(1_u8, "head"), &body).await.unwrap();
            writer.write(&(2_u8, ""), &[]).await.unwrap();
            writer.flush().await.unwrap();
        };
        let read = async {
            let mut reader = FrameReader::new(far);
            let (head, body) = reader.read::<(u8, String)>().await.unwrap();
            assert_eq!((head.0, head.1.as_str(), body.len()), (1, "head", 502));
            assert_eq!(body[..2], *b"ab");
            let (head, body) = reader.read::<(u8, String)>().await.unwrap();
            assert_eq!((head.0, body.len()), (2, 0));
            let end = reader.read::<(u8, String)>().await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        };
        tokio::join!(write, read);
    }

    #[tokio::test]
    async fn a_frame_over_its_limit_is_refused_before_it_is_read() {
        let bytes = [0xff_u8; 8];
        let error = FrameReader::new(&bytes[..]).read::<u8>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn garbage_in_the_head_is_refused() {
        let bytes = [0, 0, 0, 2, 0, 0, 0, 0, 9, 9];
        let error = FrameReader::new(&bytes[..]).read::<u8>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
