//! Packets of every kind, sockets, and what is counted.

use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::test_runner::TestRunner;

use super::*;

#[tokio::test]
async fn what_is_no_question_of_ours_is_refused_by_its_kind() {
    let dns = dns().await;
    let code = |bytes: Vec<u8>| Message::from_vec(&bytes).unwrap().metadata.response_code;
    let asked = |name, kind| question(name, kind, None);
    assert_eq!(code(dns.tcp(&asked("consul.", AXFR).to_vec().unwrap()).await), ResponseCode::NotImp);
    assert_eq!(code(dns.udp(&asked("example.com.", A).to_vec().unwrap()).await), ResponseCode::Refused);
    let mut status = asked("consul.", A);
    status.metadata.op_code = OpCode::Status;
    assert_eq!(code(dns.udp(&status.to_vec().unwrap()).await), ResponseCode::NotImp);
    let mut chaos = asked("version.bind.", TXT);
    chaos.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
    assert_eq!(code(dns.udp(&chaos.to_vec().unwrap()).await), ResponseCode::Refused);
    let mut two = asked("consul.", A);
    two.add_query(Query::query(Name::root(), A));
    assert_eq!(code(dns.udp(&two.to_vec().unwrap()).await), ResponseCode::FormErr);
    let mut cut = asked("web.service.consul.", A).to_vec().unwrap();
    cut.truncate(20);
    assert_eq!(code(dns.udp(&cut).await), ResponseCode::FormErr);
    let mut newer = asked("web.service.consul.", A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(u16::from(code(dns.udp(&newer.to_vec().unwrap()).await)), u16::from(ResponseCode::BADVERS));
    let mut odd = asked("x.service.consul.", A);
    odd.queries[0].name = Name::from_labels([&b"\xff\0 x"[..], b"service", b"consul"]).unwrap();
    assert_eq!(code(dns.udp(&odd.to_vec().unwrap()).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn answers_and_scraps_are_not_answered() {
    let dns = dns().await;
    let mut response = question("web.service.consul.", A, None);
    response.metadata.message_type = MessageType::Response;
    for packet in [response.to_vec().unwrap(), vec![1, 2, 3], vec![]] {
        assert!(matches!(dns.server.answer_now(&packet, Transport::Tcp), Now::Nothing));
    }
}

#[tokio::test]
async fn a_connection_answers_many_questions_and_ends_on_nonsense() {
    let dns = dns().await;
    let mut stream = TcpStream::connect(dns.address()).await.unwrap();
    let packet = question("n1.node.consul.", A, None).to_vec().unwrap();
    let mut framed = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(&packet);
    stream.write_all(&[framed.clone(), framed].concat()).await.unwrap();
    for _ in 0..2 {
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(sorted(&Message::from_vec(&answer).unwrap().answers), ["10.0.0.1"]);
    }
    stream.write_u16(u16::MAX).await.unwrap();
    assert!(stream.read_u8().await.is_err(), "a question of 64 KiB ends the connection");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let options = DnsOptions { listen: vec![address], ..DnsOptions::default() };
    let fault = Listeners::bind(&options).await.err().unwrap();
    assert!(fault.text.contains(&address.to_string()) && fault.text.contains("ports.dns"), "{fault}");
}

#[tokio::test]
async fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    let dns = dns_with(facts(), |options| options.listen = vec!["0.0.0.0:0".parse().unwrap()]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked: IpAddr = [127, 0, 0, 2].into();
    socket.connect((asked, dns.address().port())).await.unwrap();
    socket.send(&question("n1.node.consul.", A, None).to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 512];
    timeout(Duration::from_secs(20), socket.recv(&mut buffer))
        .await
        .expect("answered from another address")
        .unwrap();
}

#[tokio::test]
async fn answers_are_counted_by_code() {
    let dns = dns().await;
    dns.ask("web.service.consul.", A).await;
    dns.nothing("none.consul.", A).await;
    dns.udp(&question("example.com.", A, None).to_vec().unwrap()).await;
    let mut registry = prometheus_client::registry::Registry::default();
    dns.server.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "dns_answers_total{code=\"NOERROR\"} 2",
        "dns_answers_total{code=\"NXDOMAIN\"} 2",
        "dns_answers_total{code=\"REFUSED\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// Puts so many random packets before one server.
fn try_packets<S: Strategy>(strategy: S, packets: impl Fn(S::Value) -> Vec<Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dns = runtime.block_on(dns());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2_000));
    let tried = runner.run(&strategy, |value| {
        for packet in packets(value) {
            runtime.block_on(judge(&dns, &packet));
        }
        Ok(())
    });
    tried.unwrap();
}

#[test]
fn no_bytes_make_it_panic() {
    try_packets(proptest::collection::vec(any::<u8>(), 0..300), |bytes| vec![bytes]);
}

#[test]
fn no_damaged_question_makes_it_panic() {
    let damage = (0usize..64, any::<u8>(), 0usize..80, 0u16..260, any::<Option<u16>>());
    try_packets(damage, |(at, byte, cut, kind, edns)| {
        let kind = RecordType::from(kind);
        let whole = question("a.web.service.dc1.dc.mesh.internal.", kind, edns).to_vec().unwrap();
        let mut damaged = whole.clone();
        if let Some(hit) = damaged.get_mut(at) {
            *hit = byte;
        }
        damaged.truncate(damaged.len().saturating_sub(cut));
        vec![whole, damaged]
    });
}

/// Whatever comes in, what goes out is a message that answers it and fits.
async fn judge(dns: &Dns, bytes: &[u8]) {
    let transport = Transport::Udp { is_local: true };
    let answer = match dns.server.answer_now(bytes, transport) {
        Now::Answer(answer) => answer,
        Now::Nothing => return,
        Now::Later(question) => match dns.server.answer(bytes, &question, transport).await {
            Some(answer) => answer,
            None => return,
        },
    };
    assert!(answer.len() <= 4096);
    let message = Message::from_vec(&answer).unwrap();
    assert_eq!((message.metadata.message_type, &answer[..2]), (MessageType::Response, &bytes[..2]));
}
