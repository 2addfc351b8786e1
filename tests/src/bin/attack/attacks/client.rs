//! Clients of the daemon and of a shim that are hostile, odd, or killed in the middle.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::shim::{bundle, ttrpc};
use harness::wait;
use harness::{Supervisor, run};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::ttrpc::Request;

use crate::attack::{Attack, attack, on_both, within};
use crate::fixture::{Fixture, SOON, succeeded};

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(
            180,
            attack(
                "C.16",
                "socket-that-does-not-answer",
                "a client does not wait for ever for a socket that accepts",
                silent,
            ),
        ),
        attack(
            "C.16",
            "daemon-of-another-root",
            "a client whose root is not its daemon's is refused",
            other_root,
        ),
        within(
            120,
            attack(
                "C.17",
                "client-killed",
                "what a killed client left can be asked for again",
                killed,
            ),
        ),
        attack(
            "C.19",
            "authority",
            "a client that sends the socket's path as its authority is served",
            authority,
        ),
        on_both(
            "C.19",
            "requests-unread",
            "requests whose answers are never read take no memory of a shim",
            unread,
        ),
        on_both(
            "C.19",
            "long-exec-id",
            "ids of execs may be as long as those of containers",
            long_exec,
        ),
        attack(
            "C.19",
            "random-bytes",
            "a daemon that is sent anything goes on answering",
            random_bytes,
        ),
    ]
    .concat()
}

fn silent(fixture: &Fixture) {
    let supervisor = Supervisor::new(fixture.root());
    fs::create_dir_all(supervisor.state()).expect("make a directory");
    let listener = UnixListener::bind(supervisor.socket()).expect("listen");
    // Connections are accepted by the kernel, and never looked at.
    let began = Instant::now();
    let mut child = supervisor
        .cli(&["ps"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a client");
    let ended =
        wait::until(Duration::from_secs(60), || child.try_wait().expect("a child of this process"));
    let _ = child.kill();
    let _ = child.wait();
    drop(listener);
    fs::remove_file(supervisor.socket()).expect("it was made");
    assert!(ended.is_some(), "a client still waits after {:?}", began.elapsed());
}

fn other_root(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let other = fixture.root().dir("other");
    let command = supervisor.cli(&[]);
    let words: Vec<String> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut mine = fixture.root().command(command.get_program());
    let own = supervisor.root().display().to_string();
    for word in words {
        mine.arg(if word == own { other.display().to_string() } else { word });
    }
    let done = run(mine.arg("ps"));
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    assert!(done.code() != 0, "a client of {} was served by a daemon of {own}", other.display());
}

fn killed(fixture: &Fixture) {
    let supervisor = fixture.supervisor();
    let runtime = ["run", "--runtime", fixture.engine.runtime(), "--name"];
    for number in 0..16u64 {
        let id = format!("{}-k{number}", fixture.root().namespace());
        // One that has been started goes on without its client.
        let words = [&runtime[..], &[&id, crate::fixture::IMAGE, "sleep", "1000"]].concat();
        let mut client = supervisor
            .cli(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a client");
        wait::pass(Duration::from_millis(number * 15));
        let _ = client.kill();
        let _ = client.wait();
        wait::pass(Duration::from_millis(100));
        let listed = supervisor.run(&["ps", "-a"]).success().out();
        let line = listed.lines().find(|line| line.starts_with(&id)).unwrap_or_default();
        let half_made = line.contains("created") || line.contains("no task");
        if line.is_empty() || half_made {
            let words = [&runtime[..], &[&id, crate::fixture::IMAGE, "true"]].concat();
            let again = supervisor.run(&words);
            succeeded(&again, &format!("the same id, after a client was killed ({line})"));
        }
        let _ = supervisor.run(&["rm", "-f", &id]).success();
    }
}

/// One call of the version service, over HTTP/2 made by hand: whether an answer came.
fn call(socket: &std::path::Path, authority: &str) -> Result<(), String> {
    let mut stream = UnixStream::connect(socket).map_err(|why| why.to_string())?;
    let limit = Some(Duration::from_secs(5));
    stream.set_read_timeout(limit).map_err(|why| why.to_string())?;
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(id.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.push(u8::try_from(text.len()).expect("shorter than 127 bytes"));
        bytes.extend(text.as_bytes());
    };
    // POST, http, then literals of which only the value is spelt out (RFC 7541, appendix A).
    let mut headers = vec![0x83, 0x86, 0x04];
    text(&mut headers, "/containerd.services.version.v1.Version/Version");
    headers.push(0x01);
    text(&mut headers, authority);
    headers.extend([0x0f, 0x10]);
    text(&mut headers, "application/grpc");
    headers.push(0x00);
    text(&mut headers, "te");
    text(&mut headers, "trailers");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &headers));
    bytes.extend(frame(0, 1, 1, &[0; 5]));
    stream.write_all(&bytes).map_err(|why| why.to_string())?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).map_err(|why| format!("no answer: {why}"))?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).map_err(|why| format!("no answer: {why}"))?;
        match (header[3], header[8]) {
            (0, 1) if length > 5 => return Ok(()),
            (3, 1) => return Err(format!("the stream was reset: {payload:?}")),
            (7, _) => return Err(format!("the connection was ended: {payload:?}")),
            (1, 1) if header[4] & 1 != 0 => return Err("an answer without a message".to_owned()),
            _ => {}
        }
    }
}

fn authority(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let socket = supervisor.socket();
    let path = socket.display().to_string();
    let escaped = path.replace('/', "%2F");
    let found: Vec<(String, Result<(), String>)> = ["localhost".to_owned(), path, escaped]
        .into_iter()
        .map(|name| (name.clone(), call(&socket, &name)))
        .collect();
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    for (name, answer) in found {
        assert_eq!(answer, Ok(()), "with the authority {name:?}");
    }
}

fn unread(fixture: &Fixture) {
    let bundle = fixture.daemon.bundle("sleep 1000");
    let (shim, task) = fixture.daemon.run(&bundle);
    let mut payload = protos::ttrpc::api::ConnectRequest::new();
    payload.id.clone_from(&bundle.id);
    let request = Request {
        service: shim.reply.service().to_owned(),
        method: "Connect".to_owned(),
        payload: payload.write_to_bytes().expect("encode"),
        ..Request::default()
    }
    .write_to_bytes()
    .expect("encode");
    let mut stream = ttrpc::open(&shim.reply.address).expect("connect");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a limit");
    let began = Instant::now();
    let mut number = 1;
    while began.elapsed() < Duration::from_secs(5) {
        let frames: Vec<u8> = (0..64)
            .flat_map(|_| {
                number += 2;
                ttrpc::frame(number, 1, &request)
            })
            .collect();
        if stream.write_all(&frames).is_err() {
            // Full, as it should be; a broken frame would end the connection.
            wait::pass(Duration::from_millis(50));
            break;
        }
    }
    wait::pass(Duration::from_millis(500));
    let status = fs::read_to_string(format!("/proc/{}/status", shim.pid)).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    let held: u64 =
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
    let answers = task.within(SOON).state("").map(drop);
    drop(stream);
    fixture.daemon.end(&shim, &task);
    answers.expect("the shim answers others");
    assert!(held < 64 * 1024, "the shim held {} MB", held / 1024);
}

fn long_exec(fixture: &Fixture) {
    let bundle = fixture.daemon.bundle("sleep 1000");
    let (shim, task) = fixture.daemon.run(&bundle);
    let id = "e".repeat(76);
    let process = bundle::process(&bundle::shell("exit 3"));
    let ran = task.exec(&task.exec_request(&id, &process)).and_then(|()| task.start(&id));
    let ended = ran.and_then(|_| task.within(SOON).wait(&id)).map(|exit| exit.exit_status);
    let _ = task.delete(&id);
    fixture.daemon.end(&shim, &task);
    assert_eq!(ended.map_err(|why| why.to_string()), Ok(3), "an exec with an id of 76 bytes");
}

fn random_bytes(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..200 {
        let mut stream = UnixStream::connect(supervisor.socket()).expect("connect");
        let mut bytes =
            if round % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec() } else { Vec::new() };
        for _ in 0..200 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            bytes.extend(seed.to_be_bytes());
        }
        // The daemon may hang up in the middle.
        let _ = stream.write_all(&bytes);
    }
    let done = supervisor.run(&["ps"]);
    let daemons = supervisor.daemons().len();
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    assert_eq!((done.code(), daemons), (0, 1), "{done:?}");
}
