use super::*;

#[test]
fn a_bug_ends_one_connection_and_is_counted() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    let metrics = Arc::new(Metrics::new(8));
    let worker = Worker::new(Limits::default(), metrics.clone());
    runtime.block_on(async {
        worker.spawn_counted("a connection that panics", async { panic!("on purpose") });
        assert_eq!(worker.connections.get(), 1);
        drain(&worker, Doors::default(), Instant::now() + Duration::from_secs(20)).await;
        assert_eq!(worker.connections.get(), 0);
    });
    runtime.block_on(tokio::task::yield_now());
    assert!(metrics.text().contains("purlin_proxy_panics_total 1\n"), "{}", metrics.text());
}
