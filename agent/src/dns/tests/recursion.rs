//! Names of others, and aliases that lead to them.

use super::*;

/// A recursor that answers every question with one address, or with a code, and keeps what it was asked.
async fn recursor(code: ResponseCode) -> (SocketAddr, Arc<Mutex<Vec<Message>>>) {
    let sockets = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let answer = move |packet: &[u8]| {
        let mut message = Message::from_vec(packet).unwrap();
        log.lock().unwrap().push(message.clone());
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = code;
        if code == ResponseCode::NoError {
            let data = RData::A(hickory_proto::rr::rdata::A([192, 0, 2, 1].into()));
            message.add_answer(Record::from_rdata(message.queries[0].name.clone(), 60, data));
        }
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                received = sockets.udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    sockets.udp.send_to(&answer(&buffer[..length]), from).await.unwrap();
                }
                accepted = sockets.tcp.accept() => {
                    let mut stream = accepted.unwrap().0;
                    let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut packet).await.unwrap();
                    let answer = answer(&packet);
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        }
    });
    (sockets.address, asked)
}

#[tokio::test]
async fn other_names_go_to_the_recursors_in_order() {
    let (failing, first) = recursor(ResponseCode::ServFail).await;
    let (working, second) = recursor(ResponseCode::NoError).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let recursors = vec![silent.local_addr().unwrap(), failing, working];
    let change = |options: &mut DnsOptions| {
        options.recursors = recursors;
        options.recursor_timeout = Duration::from_millis(200);
    };
    let dns = dns_with(facts(), change).await;
    let answer = dns.ask("example.com.", A).await;
    assert_eq!(sorted(&answer.answers), ["192.0.2.1"]);
    assert!(!answer.metadata.authoritative);
    assert_eq!(
        (first.lock().unwrap().len(), second.lock().unwrap().len()),
        (2, 2),
        "once over UDP, once over TCP"
    );
    assert_eq!(dns.nothing("none.consul.", A).await, ResponseCode::NXDomain);
    assert!(dns.ask("web.service.consul.", A).await.metadata.recursion_available);
    assert_eq!(second.lock().unwrap().len(), 2, "our own names stay here");
}

#[tokio::test]
async fn without_an_answer_of_a_recursor_there_is_none() {
    let (failing, _) = recursor(ResponseCode::ServFail).await;
    let (missing, _) = recursor(ResponseCode::NXDomain).await;
    for (recursor, code) in [(failing, ResponseCode::ServFail), (missing, ResponseCode::NXDomain)] {
        let dns = dns_with(facts(), |options| options.recursors = vec![recursor]).await;
        assert_eq!(dns.ask("example.com.", A).await.metadata.response_code, code);
    }
}

#[tokio::test]
async fn a_host_name_in_place_of_an_address_is_an_alias() {
    let alone = dns().await;
    assert_eq!(alone.data("host.service.consul.", A).await, ["db.example.com."]);
    assert_eq!(alone.data("ext.node.consul.", CNAME).await, ["db.example.com."]);
    assert_eq!(alone.data("host.service.consul.", SRV).await, ["1 1 8080 db.example.com."]);
    let (working, asked) = recursor(ResponseCode::NoError).await;
    let dns = dns_with(facts(), |options| options.recursors = vec![working]).await;
    assert_eq!(dns.data("host.service.consul.", A).await, ["192.0.2.1", "db.example.com."]);
    assert_eq!(asked.lock().unwrap()[0].queries[0].name.to_ascii(), "db.example.com.");
}
