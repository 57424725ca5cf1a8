use api::swarm::{
    Availability, Machine, Node, NodeDescription, NodeEngine, NodeSpec, NodeStatus, Role,
};
use jiff::ToSpan;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn node(number: u8, state: &str) -> Node {
    Node {
        id: node_id(number),
        created_at: String::new(),
        spec: NodeSpec {
            labels: [].into(),
            role: Role::Worker,
            availability: Availability::Active,
        },
        description: NodeDescription {
            hostname: format!("n{number}"),
            machine: Machine::default(),
            engine: NodeEngine {
                engine_version: String::new(),
            },
        },
        status: NodeStatus {
            state: state.to_owned(),
            addr: [192, 0, 2, number].into(),
        },
        manager_status: None,
        own: number == 1,
    }
}

fn service() -> Id {
    Id::of_cluster([9; 16])
}

fn task(id: &str, node: Option<u8>) -> Task {
    Task {
        id: id.to_owned(),
        slot: 1,
        node: node
            .map(|number| node_id(number).to_string())
            .unwrap_or_default(),
        template: "t".to_owned(),
        image: "i".to_owned(),
        name: format!("web.1.{id}"),
        desired: Desired::Running,
        state: match node {
            Some(_) => TaskState::Starting,
            None => TaskState::Pending,
        },
        since: at(100),
        created: at(100),
        revision: 5,
        ran: None,
        container: None,
        error: String::new(),
    }
}

fn order(task: Task) -> Order {
    Order {
        service: service(),
        service_name: "web".to_owned(),
        task,
    }
}

/// The item of a task as the store has it.
fn item(task: &Task, report: Option<&Task>) -> WorkItem {
    let given = order(task.clone()).given().unwrap();
    WorkItem {
        task: given.task,
        node: given.node,
        order: given.order,
        report: report.map(|report| encode(report).unwrap()),
    }
}

fn crew(tasks: Vec<WorkItem>) -> Crew {
    Crew::of(&Work {
        node: node_id(1),
        leads: Some(3),
        nodes: vec![node(1, "ready"), node(2, "down")],
        services: vec![(service(), 5)],
        history: None,
        tasks,
    })
}

#[test]
fn what_a_node_reports_counts_and_a_silent_one_has_nothing() {
    let (own, other, none) = (task("a", Some(1)), task("b", Some(2)), task("c", None));
    let mut runs = own.clone();
    runs.becomes(TaskState::Running, at(101));
    let mut ended = task("d", Some(2));
    ended.becomes(TaskState::Complete, at(99));
    let crew = crew(vec![
        item(&own, Some(&runs)),
        item(&other, Some(&other)),
        item(&none, None),
        item(&task("d", Some(2)), Some(&ended)),
        item(&task("e", Some(3)), None),
    ]);
    let states: Vec<(String, TaskState)> = crew
        .tasks(&service())
        .into_iter()
        .map(|task| (task.id, task.state))
        .collect();
    let expected = [
        ("a", TaskState::Running),
        ("b", TaskState::Orphaned),
        ("c", TaskState::Pending),
        ("d", TaskState::Complete),
        ("e", TaskState::Orphaned),
    ];
    assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
    let own = crew.node.clone();
    let orders: Vec<&Order> = crew.orders_of(&own).collect();
    assert_eq!(orders, [&order(runs)]);
}

#[test]
fn a_node_that_is_awaited_keeps_what_it_has_and_gets_nothing_new() {
    let crew = Crew::of(&Work {
        node: node_id(1),
        leads: Some(3),
        nodes: vec![node(1, "ready"), node(2, "unknown")],
        services: vec![(service(), 5)],
        history: None,
        tasks: vec![item(&task("a", Some(2)), None)],
    });
    let states: Vec<TaskState> = crew.tasks(&service()).iter().map(|t| t.state).collect();
    assert_eq!(states, [TaskState::Starting]);
    let ready: Vec<bool> = crew.hosts.iter().map(Host::is_ready).collect();
    assert_eq!(ready, [true, false]);
}

#[test]
fn a_task_is_orphaned_since_its_host_is_silent() {
    let (ran, silent) = (task("b", Some(2)), at(500));
    let mut runs = ran.clone();
    runs.becomes(TaskState::Running, at(101));
    let heard = crew(vec![item(&ran, Some(&runs))]);
    let mut tasks = heard.tasks(&service());
    assert!(!heard.is_noted(&tasks[0]));
    // The one that leads puts down when it heard no more of the host.
    tasks[0].becomes(TaskState::Orphaned, silent);
    tasks[0].since = silent;
    let noted = crew(vec![item(&tasks[0], Some(&runs))]);
    let shown = noted.tasks(&service());
    assert_eq!(shown, tasks);
    assert!(noted.is_noted(&shown[0]));
    // A host that is back goes on where it was, or begins.
    let mut back = tasks[0].clone();
    back.node = node_id(1).to_string();
    for (report, state, since) in [
        (Some(&runs), TaskState::Running, 101),
        (None, TaskState::Starting, 500),
    ] {
        let crew = crew(vec![item(&back, report)]);
        let shown = crew.tasks(&service());
        assert_eq!((shown[0].state, shown[0].since), (state, at(since)));
        assert!(crew.is_noted(&shown[0]));
    }
}

#[test]
fn a_node_tells_what_is_new_and_what_is_gone() {
    let (known, changed, gone) = (task("a", Some(1)), task("b", Some(1)), task("c", Some(1)));
    let others = task("d", Some(2));
    let crew = crew(vec![
        item(&known, Some(&known)),
        item(&changed, Some(&changed)),
        WorkItem {
            order: None,
            ..item(&gone, Some(&gone))
        },
        item(&others, Some(&others)),
    ]);
    let mut now = changed.clone();
    now.becomes(TaskState::Running, at(102));
    let new = task("e", Some(1));
    let news = crew.news([&known, &now, &new].into_iter()).unwrap();
    let report = |id: &str, task: Option<&Task>| TaskReport {
        task: id.to_owned(),
        report: task.map(|task| encode(task).unwrap()),
    };
    let expected = [
        report("b", Some(&now)),
        report("e", Some(&new)),
        report("c", None),
    ];
    assert_eq!(news, expected);
}

#[test]
fn a_service_that_is_known_otherwise_is_left_alone() {
    let crew = crew(Vec::new());
    let mut known: Service = serde_json::from_value(serde_json::json!({
        "ID": service(), "Version": { "Index": 1 }, "CreatedAt": "", "UpdatedAt": "",
        "Spec": {}, "Endpoint": { "Spec": {}, "Ports": [], "VirtualIPs": [] }, "Members": [],
    }))
    .unwrap();
    known.revision = Some(4);
    assert_eq!(crew.standing(&service(), Some(&known)), Standing::Unknown);
    known.revision = Some(5);
    assert_eq!(crew.standing(&service(), Some(&known)), Standing::Known);
    assert_eq!(crew.standing(&service(), None), Standing::Unknown);
    let other = Id::of_cluster([8; 16]);
    assert_eq!(crew.standing(&other, Some(&known)), Standing::Gone);
}

#[test]
fn a_wrong_clock_moves_nothing() {
    let mut heard = Heard::default();
    // An hour ahead.
    let mut ahead = task("a", Some(2));
    ahead.becomes(TaskState::Running, at(3700));
    let mut tasks = [ahead.clone(), task("b", Some(1))];
    heard.translate(&mut tasks, at(101));
    let times = |task: &Task| (task.since, task.ran);
    assert_eq!(times(&tasks[0]), (at(101), Some(at(101))));
    assert_eq!(times(&tasks[1]), (at(100), None));
    heard.end_pass(&["a", "b"].into());
    // It ends after 20 seconds, as its own clock has it too.
    let mut ended = ahead.clone();
    ended.becomes(TaskState::Failed, at(3720));
    let mut tasks = [ended];
    for now in [122, 150] {
        heard.translate(&mut tasks, at(now));
        assert_eq!(tasks[0].since, at(122), "when it was heard of");
        assert_eq!(tasks[0].ran, Some(at(122) - 20.seconds()));
    }
    heard.end_pass(&[].into());
    assert_eq!(heard.since.len(), 0);
}

#[test]
fn what_is_not_ordered_goes() {
    let mut own = ServiceTasks {
        service: "web".to_owned(),
        tasks: ["a", "b", "c"].map(|id| task(id, Some(1))).to_vec(),
    };
    own.tasks[2].becomes(TaskState::Failed, at(101));
    let over = dismiss(&mut own, |task| task.id == "a");
    let desired: Vec<Desired> = own.tasks.iter().map(|task| task.desired).collect();
    assert_eq!(
        desired,
        [Desired::Running, Desired::Remove, Desired::Remove]
    );
    assert_eq!(over, ["c"], "the other one ends first");
}
