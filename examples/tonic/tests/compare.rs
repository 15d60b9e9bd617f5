//! The example, run: shares and failures are what is looked at, never how long anything took.

use catena_example_tonic::{Contender, compare};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_avoids_the_slow_and_the_failing_server() {
    const CALLS: usize = 1_200;
    let reports = tokio::time::timeout(Duration::from_secs(120), compare(CALLS)).await;
    let reports = reports.expect("it ends").expect("servers can be started");
    let [rr, p2c, ours] = &reports[..] else { panic!("three contenders: {reports:?}") };
    assert_eq!(ours.contender, Contender::Ours);
    for report in &reports {
        println!("{report}");
        assert_eq!(report.latencies.len(), CALLS);
    }
    // A third of each half; a sixth of all fails.
    assert!((0.32..0.35).contains(&rr.share(1)), "{rr}");
    assert!((150..250).contains(&rr.failed), "{rr}");
    // 1 of 3 pairs is of the slow and the failing one, which has to be taken once in a while.
    assert!(p2c.share(1) < rr.share(1), "{p2c}");
    assert!(ours.share(1) < rr.share(1) / 2.0, "{ours}");
    assert!(ours.failed < rr.failed / 4, "{ours}");
}
