use super::*;

fn port(text: &str) -> ServicePort {
    let (published, target) = text.split_once(':').unwrap();
    ServicePort {
        protocol: Protocol::Tcp,
        target_port: target.parse().unwrap(),
        published_port: published.parse().unwrap(),
        count: 1,
        one_target: false,
        publish_mode: PublishMode::Ingress,
    }
}

fn service(ports: &[&str]) -> Service {
    Service {
        stage: Stage::Committed,
        id: Id::from_bytes([1; 32]),
        number: 1,
        version: 1,
        created: String::new(),
        updated: String::new(),
        spec: ServiceSpec::default(),
        ports: ports.iter().map(|text| port(text)).collect(),
        places: Vec::new(),
        previous: None,
        logins: [].into(),
        update_status: None,
        shared: None,
    }
}

#[test]
fn ports_that_were_chosen_stay_while_they_are_asked_for() {
    let check = |had: &[&str], asked: &[&str], expected: &[&str]| {
        let asked: Vec<ServicePort> = asked.iter().map(|text| port(text)).collect();
        let expected: Vec<ServicePort> = expected.iter().map(|text| port(text)).collect();
        assert_eq!(keep_chosen(&asked, Some(&service(had))), expected);
    };
    check(&["32768:80"], &["0:80"], &["32768:80"]);
    check(&["32768:80"], &["0:80", "0:80"], &["32768:80", "0:80"]);
    check(&["32768:80"], &["0:443", "8080:80"], &["0:443", "8080:80"]);
}

#[test]
fn slots_are_used_again_when_they_are_free() {
    let place = |slot| Place {
        network: Id::from_bytes([2; 32]),
        slot,
        addresses: Vec::new(),
    };
    assert_eq!(free_slot(&[]), 0);
    assert_eq!(free_slot(&[place(0), place(2)]), 1);
}
