//! Making a connection: a proven stream and a greeting, all within a deadline.

use super::{
    Target, Transport,
    frame::{FrameReader, FrameWriter},
    greeting::{Greeting, Lane, Rejection, Verdict},
    in_force::InForce,
    network::{ByteStream, Incoming, NetworkFault, Proven},
    reports::Subject,
};
use crate::{metric_definitions as metric, node::Peer};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{ReadHalf, WriteHalf},
    time::timeout,
};

/// For stream, proof and greeting together.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// A connection whose greeting has succeeded.
pub(crate) struct Connection {
    pub peer: Peer,
    pub reader: Reader,
    pub writer: Writer,
    /// How long it may be used.
    pub in_force: InForce,
}

pub(crate) type Reader = FrameReader<ReadHalf<Box<dyn ByteStream>>>;
pub(crate) type Writer = FrameWriter<WriteHalf<Box<dyn ByteStream>>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFault {
    #[error("no connection within {} s", CONNECT_DEADLINE.as_secs())]
    TimedOut,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the certificate proves node {certified:?}, not {wanted:?}")]
    OtherNode { certified: String, wanted: String },
    #[error("{0}")]
    Certificate(#[from] super::tls::NameFault),
    #[error("this node refuses {peer}: {rejection}")]
    Refused { peer: String, rejection: Rejection },
    #[error("{peer} refuses this node: {rejection}")]
    RefusedBy { peer: String, rejection: Rejection },
    #[error("too many others came before it had greeted")]
    Displaced,
    #[error("too many nodes' connections are served already")]
    TooMany,
}

impl From<NetworkFault> for ConnectFault {
    fn from(fault: NetworkFault) -> Self {
        match fault {
            NetworkFault::Io(error) => Self::Io(error),
            NetworkFault::Certificate(fault) => Self::Certificate(fault),
        }
    }
}

/// Connects to a node.
pub(crate) async fn dial(
    transport: &Transport,
    target: &Target,
    lane: Lane,
) -> Result<Connection, ConnectFault> {
    let dialled = timeout(CONNECT_DEADLINE, dial_and_greet(transport, target, lane)).await;
    let dialled = dialled.unwrap_or(Err(ConnectFault::TimedOut));
    match &dialled {
        Ok(_) => metric::connected(transport.was_connected(target, lane)),
        Err(_) => metric::connection_failed(),
    }
    dialled
}

async fn dial_and_greet(
    transport: &Transport,
    target: &Target,
    lane: Lane,
) -> Result<Connection, ConnectFault> {
    let known = transport.acknowledged.snapshot();
    let configured = transport.host.configured_address(&target.name);
    let address = configured.unwrap_or(&target.address);
    let Proven {
        node_name,
        stream,
        in_force,
    } = transport.network.dial(address).await?;
    if node_name != target.name {
        return Err(ConnectFault::OtherNode {
            certified: node_name,
            wanted: target.name.clone(),
        });
    }
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let (theirs, _) = reader.read::<Greeting>().await?;
    let mine = Greeting::of(&*transport.host, Some(lane), target.raft_id)?;
    writer.write(&mine, &[]).await?;
    let checked = theirs.check(&mine, &node_name, &known, &*transport.host);
    let peer = conclude(transport, &mut reader, &mut writer, &theirs, checked).await?;
    if in_force.is_withdrawn() {
        return Err(in_force.withdrawn().await.into());
    }
    Ok(Connection {
        peer,
        reader,
        writer,
        in_force,
    })
}

/// Accepts a node's connection.
pub(crate) async fn accept(
    transport: &Transport,
    incoming: Incoming,
) -> Result<(Lane, Connection), ConnectFault> {
    timeout(CONNECT_DEADLINE, async {
        let Proven {
            node_name,
            stream,
            in_force,
        } = incoming.proving.await?;
        let (reader, writer) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        let known = transport.acknowledged.snapshot();
        let mine = Greeting::of(&*transport.host, None, None)?;
        writer.write(&mine, &[]).await?;
        writer.flush().await?;
        let (theirs, _) = reader.read::<Greeting>().await?;
        let checked = theirs
            .check(&mine, &node_name, &known, &*transport.host)
            .and_then(|peer| Ok((peer, theirs.lane.ok_or(Rejection::NoLane)?)));
        let lane = checked.as_ref().ok().map(|(_, lane)| *lane);
        let checked = checked.map(|(peer, _)| peer);
        let peer = conclude(transport, &mut reader, &mut writer, &theirs, checked).await?;
        let lane = lane.expect("a peer without a lane was refused just before");
        let connection = Connection {
            peer,
            reader,
            writer,
            in_force,
        };
        Ok((lane, connection))
    })
    .await
    .map_err(|_| ConnectFault::TimedOut)?
}

/// Exchanges verdicts. A node that is told of its reverted disk looks for itself before it believes.
async fn conclude(
    transport: &Transport,
    reader: &mut Reader,
    writer: &mut Writer,
    theirs: &Greeting,
    checked: Result<Peer, Rejection>,
) -> Result<Peer, ConnectFault> {
    let verdict = match &checked {
        Ok(_) => Verdict::Accepted,
        Err(rejection) => Verdict::Refused(rejection.clone()),
    };
    writer.write(&verdict, &[]).await?;
    writer.flush().await?;
    let (heard, _) = reader.read::<Verdict>().await?;
    let peer = checked.map_err(|rejection| ConnectFault::Refused {
        peer: theirs.name.clone(),
        rejection,
    })?;
    match heard {
        Verdict::Accepted => Ok(peer),
        Verdict::Refused(rejection) => {
            if let Rejection::Reverted(acknowledged) = &rejection
                && acknowledged.forgotten_by(&transport.host.durable()?)
            {
                let believed = Arc::clone(&transport.host).reverted(&peer, *acknowledged);
                if let Err(reason) = believed
                    && transport.reports.is_news(&peer.name, Subject::Reverted, &reason)
                {
                    tracing::warn!(
                        peer = %peer.name,
                        %reason,
                        "a node calls this disk older than what it acknowledged, and is not believed; if it is right, \
                         empty the data directory"
                    );
                }
            }
            Err(ConnectFault::RefusedBy {
                peer: peer.name,
                rejection,
            })
        }
    }
}
