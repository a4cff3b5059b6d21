//! What the registry promises, seen from outside.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, proptest};
use purlin_model::service::{Mesh, Upstream};
use purlin_model::{FaultCode, Millis};

use super::*;

fn open(file: Option<&Path>, checks: CheckOptions) -> Registry {
    let node = NodeName::new("n1").unwrap();
    Registry::open(Options { node, file: file.map(Into::into), checks, clock: Clock::new(|| Millis(1_000)) })
        .unwrap()
}

fn memory() -> Registry {
    open(None, CheckOptions::default())
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn check_id(text: &str) -> CheckId {
    CheckId::new(text).unwrap()
}

fn check(id: &str, probe: Probe) -> CheckDefinition {
    CheckDefinition {
        id: check_id(id),
        name: id.into(),
        notes: String::new(),
        service_id: None,
        probe,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        initial: Status::Critical,
        success_before_passing: 0,
        failures_before_warning: 0,
        failures_before_critical: 0,
        deregister_critical_service_after: None,
        output_max_size: 4096,
    }
}

fn ttl(id: &str) -> CheckDefinition {
    check(id, Probe::Ttl { ttl: Duration::from_secs(30) })
}

fn script(id: &str) -> CheckDefinition {
    check(id, Probe::Script { args: vec!["true".into()] })
}

fn service(id: &str, name: &str, checks: Vec<CheckDefinition>) -> ServiceDefinition {
    let instance = serde_json::from_value(serde_json::json!({"id": id, "name": name, "port": 80})).unwrap();
    ServiceDefinition { instance, checks }
}

fn meshed(id: &str, name: &str, upstreams: &[(&str, &str, u16)]) -> ServiceDefinition {
    let upstream = |(name, address, port): &(&str, &str, u16)| -> Upstream {
        let value = serde_json::json!({"name": name, "local_bind_address": address, "local_bind_port": port});
        serde_json::from_value(value).unwrap()
    };
    let mut definition = service(id, name, vec![]);
    definition.instance.mesh =
        Some(Mesh { upstreams: upstreams.iter().map(upstream).collect(), ..Mesh::default() });
    definition
}

fn status(registry: &Registry, id: &str) -> Option<Status> {
    registry.local().checks.get(&check_id(id)).map(|local| local.check.status)
}

fn refused(result: Result<(), Fault>, code: FaultCode, words: &[&str]) {
    let fault = result.expect_err("must be refused");
    assert_eq!(fault.code, code, "{fault}");
    for word in words {
        assert!(fault.text.contains(word), "{word:?} is missing in: {fault}");
    }
}

#[tokio::test]
async fn what_is_registered_is_there_and_goes_with_its_checks() {
    let registry = memory();
    registry.register(service("w1", "web", vec![ttl("c1")]), Origin::Api).await.unwrap();
    let state = registry.local();
    let check = &state.checks[&check_id("c1")].check;
    assert_eq!(
        (check.service_id.clone(), check.service_name.as_ref().unwrap().as_str()),
        (Some(id("w1")), "web")
    );
    assert_eq!((check.kind.as_str(), check.status), ("ttl", Status::Critical));
    registry.deregister(&id("w1")).await.unwrap();
    assert!(registry.local().services.is_empty() && registry.local().checks.is_empty());
    refused(registry.deregister(&id("w1")).await, FaultCode::NotFound, &["Unknown service ID \"w1\""]);
    refused(
        registry.deregister_check(&check_id("c1")).await,
        FaultCode::NotFound,
        &["Unknown check ID \"c1\""],
    );
}

#[tokio::test]
async fn checks_registered_before_stay_unless_replaced() {
    let registry = memory();
    registry.register(service("w1", "web", vec![ttl("a")]), Origin::Api).await.unwrap();
    let own = CheckDefinition { service_id: Some(id("w1")), ..ttl("own") };
    registry.register_check(own, Origin::Api).await.unwrap();
    registry.register(service("w1", "web", vec![ttl("b")]), Origin::Api).await.unwrap();
    let ids =
        |registry: &Registry| registry.local().checks.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ids(&registry), ["a", "b", "own"]);
    registry.register_replacing(service("w1", "web", vec![ttl("b")]), Origin::Api).await.unwrap();
    assert_eq!(ids(&registry), ["b"]);
}

#[tokio::test]
async fn a_change_touches_only_what_changed() {
    let registry = memory();
    let files = |name: &str| vec![service("w1", "web", vec![ttl("a")]), service("d1", name, vec![ttl("b")])];
    registry.set_files(files("db"), vec![]).await.unwrap();
    registry.report(&check_id("a"), Status::Passing, "fine").unwrap();
    registry.report(&check_id("b"), Status::Passing, "fine").unwrap();
    let before = registry.local();
    registry.set_files(files("db"), vec![]).await.unwrap();
    assert_eq!(registry.local().definitions, before.definitions, "the same files change nothing");
    registry.set_files(files("database"), vec![]).await.unwrap();
    let after = registry.local();
    assert!(after.definitions > before.definitions);
    assert!(Arc::ptr_eq(&before.services[&id("w1")], &after.services[&id("w1")]));
    assert!(Arc::ptr_eq(&before.checks[&check_id("a")], &after.checks[&check_id("a")]));
    let moved = &after.checks[&check_id("b")].check;
    assert_eq!((moved.status, moved.service_name.as_ref().unwrap().as_str()), (Status::Passing, "database"));
    registry.set_files(vec![], vec![]).await.unwrap();
    assert!(registry.local().services.is_empty());
}

#[tokio::test]
async fn a_file_wins_over_the_api_and_gives_way_when_it_goes() {
    let registry = memory();
    registry.register(service("w1", "from-api", vec![ttl("api")]), Origin::Api).await.unwrap();
    registry.set_files(vec![service("w1", "from-file", vec![ttl("file")])], vec![]).await.unwrap();
    registry.register(service("w1", "from-api-again", vec![ttl("api")]), Origin::Api).await.unwrap();
    let state = registry.local();
    assert_eq!(state.services[&id("w1")].instance.name.as_str(), "from-file");
    assert_eq!(state.services[&id("w1")].origin, Origin::File);
    assert_eq!(state.checks.keys().map(CheckId::as_str).collect::<Vec<_>>(), ["file"]);
    registry.set_files(vec![], vec![]).await.unwrap();
    assert_eq!(registry.local().services[&id("w1")].instance.name.as_str(), "from-api-again");
}

#[tokio::test]
async fn a_taken_listener_names_its_holder() {
    let registry = memory();
    registry.register(meshed("w1", "web", &[("api", "127.0.0.1", 9191)]), Origin::Api).await.unwrap();
    let words = [
        "upstream \"db\" of service \"w2\"",
        "127.0.0.1:9191",
        "upstream \"api\" of service \"w1\" holds it",
    ];
    let second = meshed("w2", "web", &[("db", "127.0.0.1", 9191)]);
    refused(registry.register(second, Origin::Api).await, FaultCode::Conflict, &words);
    let any = meshed("w2", "web", &[("db", "0.0.0.0", 9191)]);
    refused(
        registry.register(any, Origin::Api).await,
        FaultCode::Conflict,
        &["0.0.0.0:9191", "\"w1\" holds it"],
    );
    let twice = meshed("w2", "web", &[("a", "127.0.0.1", 9000), ("b", "127.0.0.1", 9000)]);
    refused(
        registry.register(twice, Origin::Api).await,
        FaultCode::Conflict,
        &["upstream \"a\" of service \"w2\""],
    );
    registry.register(meshed("w2", "web", &[("db", "127.0.0.2", 9191)]), Origin::Api).await.unwrap();
    registry.register(meshed("w1", "web", &[("api", "127.0.0.1", 9191)]), Origin::Api).await.unwrap();
    // A file takes the listener of a registration, which rests until the file lets go.
    registry.set_files(vec![meshed("f1", "files", &[("x", "127.0.0.1", 9191)])], vec![]).await.unwrap();
    assert!(!registry.local().services.contains_key(&id("w1")));
    registry.set_files(vec![], vec![]).await.unwrap();
    assert!(registry.local().services.contains_key(&id("w1")));
}

#[tokio::test]
async fn names_that_mean_something_are_refused() {
    let registry = memory();
    let register = |definition| registry.register(definition, Origin::Api);
    refused(register(service("x", "web-sidecar-proxy", vec![])).await, FaultCode::Invalid, &["reserved"]);
    refused(register(service("web-sidecar-proxy", "x", vec![])).await, FaultCode::Invalid, &["reserved"]);
    refused(
        register(meshed("w", "my.web", &[])).await,
        FaultCode::Invalid,
        &["\"my.web\" cannot be in the mesh"],
    );
    refused(
        register(meshed("w", "web", &[("a", "localhost", 1)])).await,
        FaultCode::Invalid,
        &["no IP address"],
    );
    refused(
        register(meshed("w", "web", &[("a", "127.0.0.1", 0)])).await,
        FaultCode::Invalid,
        &["local_bind_port"],
    );
    refused(register(service("w", "web", vec![ttl("serfHealth")])).await, FaultCode::Invalid, &["reserved"]);
    register(service("w", "my.web", vec![])).await.unwrap();
}

#[tokio::test]
async fn a_check_id_belongs_to_one_owner() {
    let registry = memory();
    registry.register(service("w1", "web", vec![ttl("c")]), Origin::Api).await.unwrap();
    let words = ["check id \"c\" belongs to service \"w1\""];
    let second = service("w2", "web", vec![ttl("c")]);
    refused(registry.register(second.clone(), Origin::Api).await, FaultCode::Conflict, &words);
    refused(registry.register_check(ttl("c"), Origin::Api).await, FaultCode::Conflict, &words);
    let both = vec![service("w1", "web", vec![ttl("c")]), second];
    refused(
        registry.set_files(both, vec![]).await,
        FaultCode::Conflict,
        &["check id \"c\"", "\"w1\"", "\"w2\""],
    );
    let lost = CheckDefinition { service_id: Some(id("none")), ..ttl("d") };
    refused(
        registry.register_check(lost, Origin::Api).await,
        FaultCode::Invalid,
        &["\"none\" does not exist"],
    );
}

#[tokio::test]
async fn scripts_need_leave_by_origin() {
    for (local, api, from_file, from_api) in
        [(false, false, false, false), (true, false, true, false), (false, true, true, true)]
    {
        let checks = CheckOptions { enable_script_checks: api, enable_local_script_checks: local };
        let registry = open(None, checks);
        assert_eq!(registry.set_files(vec![], vec![script("s")]).await.is_ok(), from_file);
        assert_eq!(registry.register_check(script("t"), Origin::Api).await.is_ok(), from_api);
        let of_service = service("w", "web", vec![script("u")]);
        assert_eq!(registry.register(of_service, Origin::Api).await.is_ok(), from_api);
    }
    let refusal = memory().register_check(script("s"), Origin::Api).await;
    refused(
        refusal,
        FaultCode::Invalid,
        &["check \"s\"", "scripts are disabled", "enable_script_checks = true"],
    );
}

#[tokio::test]
async fn spans_are_raised_to_the_least_allowed() {
    let registry = memory();
    let hasty = CheckDefinition {
        interval: Duration::from_millis(10),
        deregister_critical_service_after: Some(Duration::from_secs(1)),
        ..check("c", Probe::Tcp { address: "127.0.0.1:1".into(), tls: None })
    };
    registry.register_check(hasty, Origin::Api).await.unwrap();
    let state = registry.local();
    let definition = state.checks[&check_id("c")].definition.as_ref().unwrap();
    assert_eq!(definition.interval, Duration::from_secs(1));
    assert_eq!(definition.deregister_critical_service_after, Some(Duration::from_secs(60)));
    let wrong = CheckDefinition { failures_before_warning: 3, failures_before_critical: 2, ..ttl("d") };
    refused(
        registry.register_check(wrong, Origin::Api).await,
        FaultCode::Invalid,
        &["failures_before_warning (3)"],
    );
}

#[tokio::test]
async fn probes_that_could_never_work_are_refused() {
    let registry = memory();
    let tcp = |address: &str| Probe::Tcp { address: address.into(), tls: None };
    for (probe, word) in [
        (tcp("localhost"), "host:port"),
        (tcp(":80"), "host:port"),
        (tcp("h:0"), "host:port"),
        (tcp("h:70000"), "host:port"),
        (Probe::Grpc { target: "h/svc".into(), tls: None }, "host:port"),
        (Probe::Ttl { ttl: Duration::ZERO }, "ttl"),
        (Probe::Ttl { ttl: Duration::MAX }, "ten years"),
        (Probe::Alias { node: None, service: None }, "alias_service"),
        (Probe::OsService { unit: String::new() }, "unit"),
    ] {
        refused(registry.register_check(check("c", probe), Origin::Api).await, FaultCode::Invalid, &[word]);
    }
    let http = |url: &str, method: &str, header: &str| Probe::Http {
        url: url.into(),
        method: method.into(),
        headers: [("x".to_owned(), vec![header.to_owned()])].into(),
        body: String::new(),
        disable_redirects: false,
        tls: Default::default(),
    };
    for probe in [
        http("localhost:80", "", ""),
        http("ftp://h/", "", ""),
        http("http://h", "B AD", ""),
        http("http://h", "", "a\r\nb"),
    ] {
        refused(
            registry.register_check(check("c", probe), Origin::Api).await,
            FaultCode::Invalid,
            &["check \"c\""],
        );
    }
}

#[tokio::test]
async fn maintenance_is_a_critical_check_with_the_reason() {
    let registry = memory();
    registry.register(service("w1", "web", vec![]), Origin::Api).await.unwrap();
    registry.set_service_maintenance(&id("w1"), Some("disk".into())).await.unwrap();
    registry.set_node_maintenance(Some(String::new())).await.unwrap();
    let state = registry.local();
    let of_service = &state.checks[&check_id("_service_maintenance:w1")].check;
    assert_eq!((of_service.status, of_service.notes.as_str()), (Status::Critical, "disk"));
    assert_eq!(of_service.service_id, Some(id("w1")));
    let of_node = &state.checks[&check_id("_node_maintenance")].check;
    assert!(of_node.service_id.is_none() && of_node.notes.contains("no reason was provided"));
    registry.set_service_maintenance(&id("w1"), None).await.unwrap();
    registry.deregister_check(&check_id("_node_maintenance")).await.unwrap();
    assert!(registry.local().checks.is_empty());
    let unknown = registry.set_service_maintenance(&id("w2"), Some(String::new())).await;
    refused(unknown, FaultCode::NotFound, &["Unknown service ID \"w2\""]);
}

#[tokio::test]
async fn only_ttl_checks_are_reported_by_hand() {
    let registry = memory();
    registry
        .register_check(check("c", Probe::Tcp { address: "h:1".into(), tls: None }), Origin::Api)
        .await
        .unwrap();
    refused(registry.report(&check_id("c"), Status::Passing, ""), FaultCode::NotFound, &["TTL"]);
    refused(
        registry.report(&check_id("d"), Status::Passing, ""),
        FaultCode::NotFound,
        &["Unknown check ID \"d\""],
    );
}

#[tokio::test]
async fn output_is_cut_between_characters() {
    let registry = memory();
    let small = CheckDefinition { output_max_size: 5, ..ttl("c") };
    registry.register_check(small, Origin::Api).await.unwrap();
    registry.report(&check_id("c"), Status::Passing, "1234é").unwrap();
    assert_eq!(registry.local().checks[&check_id("c")].check.output, "1234");
}

#[tokio::test]
async fn a_host_takes_no_more_than_its_limit() {
    let registry = memory();
    let many =
        |count: usize| (0..count).map(|n| service(&format!("s{n}"), "web", vec![])).collect::<Vec<_>>();
    let max = limit::INSTANCES_PER_NODE;
    refused(registry.set_files(many(max + 1), vec![]).await, FaultCode::TooLarge, &["2000 services"]);
    registry.set_files(many(max), vec![]).await.unwrap();
    refused(
        registry.register(service("one", "web", vec![]), Origin::Api).await,
        FaultCode::TooLarge,
        &["2000"],
    );
    let checks = |count: usize| (0..count).map(|n| ttl(&format!("c{n}"))).collect::<Vec<_>>();
    let max = limit::CHECKS_PER_NODE;
    refused(registry.set_files(vec![], checks(max + 1)).await, FaultCode::TooLarge, &["4000 checks"]);
    registry.set_files(vec![], checks(max)).await.unwrap();
}

#[tokio::test]
async fn tags_and_metadata_are_bounded_at_the_edge() {
    let registry = memory();
    let with = |tags: usize, value: usize| {
        let mut definition = service("w", "web", vec![]);
        definition.instance.tags = vec!["t".into(); tags];
        definition.instance.meta = [("k".to_owned(), "v".repeat(value))].into();
        definition
    };
    registry.register(with(limit::TAGS, limit::META_VALUE_BYTES), Origin::Api).await.unwrap();
    refused(
        registry.register(with(limit::TAGS + 1, 1), Origin::Api).await,
        FaultCode::Invalid,
        &["257 tags"],
    );
    let long = with(1, limit::META_VALUE_BYTES + 1);
    refused(
        registry.register(long, Origin::Api).await,
        FaultCode::Invalid,
        &["513 bytes in a metadata value"],
    );
}

#[tokio::test]
async fn registrations_and_statuses_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    {
        let registry = open(Some(&path), CheckOptions { enable_script_checks: true, ..Default::default() });
        registry
            .register(service("w1", "web", vec![ttl("alive"), script("gone")]), Origin::Api)
            .await
            .unwrap();
        registry.register(service("w2", "web", vec![script("s")]), Origin::Api).await.unwrap();
        registry.register_check(ttl("node"), Origin::Api).await.unwrap();
        registry.set_node_maintenance(Some("later".into())).await.unwrap();
        registry.set_files(vec![service("f1", "file", vec![ttl("of-file")])], vec![]).await.unwrap();
        registry.report(&check_id("alive"), Status::Warning, "so so").unwrap();
        registry.report(&check_id("of-file"), Status::Passing, "fine").unwrap();
        registry.save().await.unwrap();
    }
    let registry = open(Some(&path), CheckOptions { enable_script_checks: true, ..Default::default() });
    let state = registry.local();
    assert_eq!(state.services.keys().map(InstanceId::as_str).collect::<Vec<_>>(), ["w1", "w2"]);
    let alive = &state.checks[&check_id("alive")].check;
    assert_eq!((alive.status, alive.output.as_str()), (Status::Warning, "so so"));
    assert_eq!(state.checks[&check_id("_node_maintenance")].check.notes, "later");
    registry.set_files(vec![service("f1", "file", vec![ttl("of-file")])], vec![]).await.unwrap();
    assert_eq!(status(&registry, "of-file"), Some(Status::Passing));
    // Scripts that are no longer allowed do not come back.
    let strict = open(Some(&path), CheckOptions::default());
    assert!(strict.local().services.is_empty());
    assert!(strict.local().checks.contains_key(&check_id("node")));
}

#[tokio::test]
async fn a_ttl_that_ran_out_while_nobody_watched_expires_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    let at = |now: u64| {
        let node = NodeName::new("n1").unwrap();
        let clock = Clock::new(move || Millis(now));
        Registry::open(Options { node, file: Some(path.clone()), checks: CheckOptions::default(), clock })
            .unwrap()
    };
    let registry = at(1_000);
    registry.register_check(ttl("c"), Origin::Api).await.unwrap();
    registry.report(&check_id("c"), Status::Passing, "alive").unwrap();
    registry.save().await.unwrap();
    let soon = at(20_000);
    soon.expire(Instant::now());
    assert_eq!(status(&soon, "c"), Some(Status::Passing));
    let late = at(40_000);
    late.expire(Instant::now());
    assert_eq!(status(&late, "c"), Some(Status::Critical));
}

#[tokio::test]
async fn each_sign_of_life_is_saved_though_it_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    let now = Arc::new(std::sync::atomic::AtomicU64::new(1_000));
    let at = || {
        let now = now.clone();
        let clock = Clock::new(move || Millis(now.load(std::sync::atomic::Ordering::Relaxed)));
        let node = NodeName::new("n1").unwrap();
        Registry::open(Options { node, file: Some(path.clone()), checks: CheckOptions::default(), clock })
            .unwrap()
    };
    let registry = at();
    registry.register_check(ttl("c"), Origin::Api).await.unwrap();
    for beat in [1_000, 20_000] {
        now.store(beat, std::sync::atomic::Ordering::Relaxed);
        registry.report(&check_id("c"), Status::Passing, "").unwrap();
        tokio::time::timeout(Duration::from_secs(5), registry.unsaved()).await.unwrap();
        registry.save().await.unwrap();
    }
    now.store(40_000, std::sync::atomic::Ordering::Relaxed);
    let killed = at();
    killed.expire(Instant::now());
    assert_eq!(status(&killed, "c"), Some(Status::Passing), "20 s after its last sign of life");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_became_one_with_a_ttl_while_nobody_watched_expires_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    let registry = open(Some(&path), CheckOptions::default());
    let tcp = check("c", Probe::Tcp { address: "h:1".into(), tls: None });
    registry.set_files(vec![], vec![tcp]).await.unwrap();
    registry.set_status(&check_id("c"), Status::Passing, "");
    registry.save().await.unwrap();
    let again = open(Some(&path), CheckOptions::default());
    again.set_files(vec![], vec![ttl("c")]).await.unwrap();
    assert_eq!(status(&again, "c"), Some(Status::Passing));
    tokio::time::advance(Duration::from_secs(31)).await;
    again.expire(Instant::now());
    assert_eq!(status(&again, "c"), Some(Status::Critical));
}

#[tokio::test]
async fn a_change_that_cannot_be_saved_is_refused() {
    let registry = open(Some(Path::new("/nonexistent/dir/registry")), CheckOptions::default());
    refused(
        registry.register(service("w1", "web", vec![]), Origin::Api).await,
        FaultCode::Internal,
        &["/nonexistent/dir"],
    );
    assert!(registry.local().services.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_file_is_refused_and_never_panics(at in 0usize..200, flip in 1u8..=255, cut in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = open(Some(&path), CheckOptions::default());
            registry.register(service("w1", "web", vec![ttl("c")]), Origin::Api).await.unwrap();
        });
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        std::fs::write(&path, bytes).unwrap();
        let options = Options {
            node: NodeName::new("n1").unwrap(),
            file: Some(path),
            checks: CheckOptions::default(),
            clock: Clock::system(),
        };
        assert!(Registry::open(options).is_err());
    }
}
