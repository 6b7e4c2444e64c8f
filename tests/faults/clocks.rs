//! Wrong wall clocks. A leader whose clock contradicts the majority hands over and does not lead;
//! where no majority agrees, the leader goes on from the state's time. Either way writes go on, and
//! the state's time, by which everything expires, does not run ahead.

use crate::support::{PATIENCE, TestCluster, eventually, turn};
use conclave::api::conclave::messages::HealthState;
use std::time::{SystemTime, UNIX_EPOCH};

const HOUR_MS: i64 = 3_600_000;
/// The state's time may be so far from this machine's.
const TOLERANCE_MS: u64 = 10_000;

#[tokio::test]
async fn two_nodes_clocks_an_hour_apart() {
    let _turn = turn().await;
    let cluster = TestCluster::builder().nodes(3).with_faults().start().await;
    let client = cluster.client();
    assert_eq!(client.put("app/key", b"before").await, Ok(1));

    // The leader's clock jumps an hour ahead of the others'.
    let bad = cluster.leader().await;
    cluster.set_clock_offset_ms(bad, HOUR_MS);
    eventually("the node with the wrong clock hands over", PATIENCE, async || {
        let status = cluster.status(bad).await.ok_or("it does not answer")?;
        let other_leads = status.leader_id.is_some() && status.leader_id != status.node_id;
        if other_leads && status.clock_refuses_lead {
            assert!(status.clock_skew_ms.is_some_and(|skew| skew > HOUR_MS - 60_000));
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    for number in 0..20_u32 {
        let value = format!("value {number}");
        client
            .put("app/key", value.as_bytes())
            .await
            .expect("writes go on");
    }
    // Also those that the node with the wrong clock proposes.
    let through = cluster.client_of(bad);
    through.put("app/other", b"through it").await.expect("it serves");
    assert_time_is_right(&cluster).await;

    // It does not lead, whatever happens, while its clock is wrong.
    let leader = cluster.leader().await;
    assert_ne!(leader, bad);
    let health = cluster.client_of(bad).health().await.expect("its health");
    assert_eq!(health.state, HealthState::Clock);

    // Mended, it may lead again.
    cluster.set_clock_offset_ms(bad, 0);
    eventually("its clock is right again", PATIENCE, async || {
        let status = cluster.status(bad).await.ok_or("it does not answer")?;
        if status.clock_refuses_lead {
            Err(format!("{status:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_clock_never_leads_also_after_the_leader_died() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).with_faults().start().await;
    let client = cluster.client();
    let leader = cluster.leader().await;
    let (bad, good) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.set_clock_offset_ms(bad, HOUR_MS);
    eventually("the wrong clock is noticed", PATIENCE, async || {
        match cluster.status(bad).await {
            Some(status) if status.clock_refuses_lead => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Now two nodes remain, an hour apart: no majority agrees. One leads on from the state's time.
    cluster.kill(leader).await;
    for number in 0..20_u32 {
        let value = format!("value {number}");
        client
            .put("app/key", value.as_bytes())
            .await
            .expect("writes go on");
    }
    assert_time_is_right(&cluster).await;
    cluster.restart(leader).await;
    // A majority agrees again.
    eventually("a node with a right clock leads", PATIENCE, async || {
        let leads = cluster.leader().await;
        if leads == leader || leads == good {
            Ok(())
        } else {
            Err(format!("node {leads} leads"))
        }
    })
    .await;
    client.put("app/key", b"after").await.expect("writes go on");
    assert_time_is_right(&cluster).await;
}

#[tokio::test]
async fn no_two_clocks_agree() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).with_faults().start().await;
    let client = cluster.client();
    assert_eq!(client.put("app/key", b"before").await, Ok(1));
    cluster.set_clock_offset_ms(1, HOUR_MS);
    cluster.set_clock_offset_ms(2, 2 * HOUR_MS);
    // Also new leaders, with no clock to anchor to, go on.
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        for number in 0..10_u32 {
            let value = format!("value {number}");
            client
                .put("app/key", value.as_bytes())
                .await
                .expect("writes go on");
        }
        cluster.restart(leader).await;
        assert_time_is_right(&cluster).await;
    }
    assert!(client.get("app/key", Some(1)).await.is_ok());
    cluster.assert_digests_agree().await;
}

/// Nothing expires early while the state's time is not ahead of the true time.
async fn assert_time_is_right(cluster: &TestCluster) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now_ms = u64::try_from(now.as_millis()).expect("before the year 500,000,000");
    for node in 0..cluster.len() {
        let Some(status) = cluster.status(node).await else {
            continue;
        };
        let ahead_ms = status.state_time_ms.saturating_sub(now_ms);
        assert!(ahead_ms < TOLERANCE_MS, "the state's time is {ahead_ms} ms ahead");
        let behind_ms = now_ms.saturating_sub(status.state_time_ms);
        assert!(behind_ms < 60_000, "the state's time is {behind_ms} ms behind");
    }
}
