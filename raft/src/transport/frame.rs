//! Frames: how messages lie on a connection.
//!
//! A frame is `[head length: u32][body length: u32][head][body]`, lengths big-endian. The head is a
//! record of [`crate::codec`]; the body is bytes that are neither encoded nor copied on their way
//! (payloads of entries, chunks of snapshots, requests of the peer service). A frame over its limit
//! ends the connection before anything is allocated for it; below it, memory is taken as bytes
//! arrive, and what was begun must end within a deadline, read or written.

use super::in_force::InForce;
use crate::codec;
use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter},
    time::timeout,
};

/// Bytes of one head.
pub const HEAD_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one body: the greatest entry, with room for the entries that share its frame.
pub const BODY_LIMIT_BYTES: usize = 40 * 1024 * 1024;

/// From the first byte of a frame to its last. A writer gives up earlier.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// For writing one frame to a peer that does not read.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 * 1024;
/// Memory that is taken before so many bytes have arrived.
const FIRST_BYTES: usize = 1024 * 1024;

/// Reads frames.
pub struct FrameReader<R> {
    stream: BufReader<R>,
    deadline: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream: BufReader::with_capacity(BUFFER_BYTES, stream),
            deadline: READ_DEADLINE,
        }
    }

    /// Reads the next frame, however long it takes until it begins. Not safe to cancel.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection ended, `InvalidData` for what is no frame, `TimedOut` for
    /// what was begun and does not end.
    pub async fn read<H: DeserializeOwned>(&mut self) -> io::Result<(H, Bytes)> {
        if self.stream.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let deadline = self.deadline;
        timeout(deadline, self.read_begun()).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("a frame was begun and not ended within {} s", deadline.as_secs()),
            )
        })?
    }

    /// Reads the next frame, unless the connection is withdrawn before it begins.
    ///
    /// # Errors
    /// As [`Self::read`], and `ConnectionAborted`.
    pub async fn read_while<H: DeserializeOwned>(&mut self, in_force: &InForce) -> io::Result<(H, Bytes)> {
        tokio::select! {
            biased;
            withdrawn = in_force.withdrawn() => return Err(withdrawn),
            filled = self.stream.fill_buf() => filled?,
        };
        self.read().await
    }

    async fn read_begun<H: DeserializeOwned>(&mut self) -> io::Result<(H, Bytes)> {
        let head_bytes = self.stream.read_u32().await? as usize;
        let body_bytes = self.stream.read_u32().await? as usize;
        if head_bytes > HEAD_LIMIT_BYTES || body_bytes > BODY_LIMIT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {head_bytes} and {body_bytes} bytes is over its limit"),
            ));
        }
        let mut bytes = self.read_bytes(head_bytes + body_bytes).await?;
        let head = bytes.split_to(head_bytes);
        let head = codec::decode(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((head, bytes.freeze()))
    }

    async fn read_bytes(&mut self, length: usize) -> io::Result<BytesMut> {
        let mut bytes = BytesMut::with_capacity(length.min(FIRST_BYTES));
        let mut rest = (&mut self.stream).take(length as u64);
        while bytes.len() < length {
            if bytes.len() == bytes.capacity() {
                bytes.reserve(bytes.len().min(length - bytes.len()));
            }
            if rest.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes)
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
    /// `InvalidInput` when it is over its limit (nothing is written then), `TimedOut`, or the
    /// connection's.
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
        timeout(WRITE_DEADLINE, async {
            // Both fit: the limits are far below 4 GiB.
            self.stream.write_u32(head.len() as u32).await?;
            self.stream.write_u32(body_bytes as u32).await?;
            self.stream.write_all(&head).await?;
            for bytes in body {
                self.stream.write_all(bytes).await?;
            }
            Ok(())
        })
        .await?
    }

    /// Sends what waits in the buffer.
    ///
    /// # Errors
    /// `TimedOut`, or the connection's.
    pub async fn flush(&mut self) -> io::Result<()> {
        timeout(WRITE_DEADLINE, self.stream.flush()).await?
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
    async fn large_frames_arrive_whole() {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let body: Bytes = (0..5 * FIRST_BYTES).map(|at| (at / 1000) as u8).collect();
        let (mut writer, mut reader) = (FrameWriter::new(near), FrameReader::new(far));
        let (wrote, read) = tokio::join!(
            async {
                writer.write(&1_u8, std::slice::from_ref(&body)).await?;
                writer.flush().await
            },
            reader.read::<u8>()
        );
        wrote.unwrap();
        assert!(read.unwrap() == (1, body));
    }

    #[tokio::test]
    async fn what_was_begun_must_end() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(far);
        reader.deadline = Duration::from_millis(50);
        // Silence before a frame may last.
        let silence = timeout(reader.deadline * 4, reader.read::<u8>()).await;
        assert!(silence.is_err(), "{silence:?}");
        near.write_all(&[0, 0, 0, 2, 0, 0, 0, 9, 1]).await.unwrap();
        let error = reader.read::<u8>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_withdrawn_connection_ends_between_two_frames() {
        let (near, far) = tokio::io::duplex(64);
        let (mut writer, mut reader) = (FrameWriter::new(near), FrameReader::new(far));
        let replaced = tokio_util::sync::CancellationToken::new();
        let hour = Duration::from_secs(3600);
        let in_force = InForce::begin(&replaced, std::time::SystemTime::now() + hour);
        writer.write(&1_u8, &[]).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(reader.read_while::<u8>(&in_force).await.unwrap().0, 1);
        // A frame that is already there is not taken any more either.
        writer.write(&2_u8, &[]).await.unwrap();
        writer.flush().await.unwrap();
        replaced.cancel();
        let error = reader.read_while::<u8>(&in_force).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn garbage_in_the_head_is_refused() {
        let bytes = [0, 0, 0, 2, 0, 0, 0, 0, 9, 9];
        let error = FrameReader::new(&bytes[..]).read::<u8>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
