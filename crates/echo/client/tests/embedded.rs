//! The echo module, linked into the process and served by an embedded host.

use chimaera_client::Call;
use chimaera_echo_client::{Client, PoolId, PoolQuery, Runtime, Status};
use chimaera_echo_proto::Method;

fn start() -> (Runtime, Client) {
    let embed = Runtime::embed().with_module(chimaera_echo_runtime::module());
    let runtime = embed.workers(1).start().expect("the host starts");
    let client = Client::new(&runtime, PoolId::new(9000, 0));
    let info = client
        .create(PoolQuery::Dynamic, "a pool", "hello")
        .expect("the pool is made");
    assert!(info.created);
    (runtime, client)
}

#[test]
fn words_come_back() {
    let (_runtime, client) = start();
    for word in [0, 1, u64::MAX] {
        assert_eq!(client.echo(word).expect("comes back"), word);
    }
    let tasks: Vec<_> = (0..500).map(|word| client.async_echo(word)).collect();
    for (word, task) in (0..500).zip(tasks) {
        assert_eq!(task.wait().expect("comes back"), word);
    }
}

#[test]
fn buffers_come_back_reversed() {
    let (runtime, client) = start();
    for len in [0, 1, 2, 4095, 4096, 8192, 8193, 100_000] {
        let mut buffer = runtime.allocate_buffer(len).expect("a buffer");
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        let expected: Vec<u8> = buffer.iter().rev().copied().collect();
        client.reverse(&mut buffer).expect("is reversed");
        assert_eq!(*buffer, *expected, "{len}");
        let buffer = client.async_reverse(buffer).wait().expect("is reversed");
        assert!(buffer.iter().rev().eq(&expected), "{len}");
    }
}

#[test]
fn a_pool_keeps_its_greeting() {
    let (runtime, client) = start();
    assert_eq!(client.greet().expect("greets"), "hello");
    let again = client
        .create(PoolQuery::Dynamic, "a pool", "hello")
        .expect("the same pool");
    assert!(!again.created);
    let again = client.async_create(PoolQuery::Dynamic, "a pool", "hello");
    assert!(!again.wait().expect("the same pool").created);
    assert_eq!(client.async_greet().wait().expect("greets"), "hello");
    let error = client
        .create(PoolQuery::Dynamic, "a pool", "goodbye")
        .expect_err("another greeting");
    assert_eq!(error.status(), Status::ParameterMismatch);
    assert!(
        error
            .to_string()
            .contains("\"hello\", asked for \"goodbye\""),
        "{error}"
    );
    let other = Client::new(&runtime, PoolId::new(9001, 0));
    let error = other
        .create(PoolQuery::Dynamic, "a pool", "hello")
        .expect_err("another id");
    assert!(
        error
            .to_string()
            .contains("exists with id 9000.0, asked for 9001.0"),
        "{error}"
    );
    let error = other.echo(1).expect_err("not created");
    assert_eq!(error.status(), Status::PoolNotFound);
    let error = other.async_greet().wait().expect_err("not created");
    assert_eq!(error.status(), Status::PoolNotFound);
    let error = other
        .create(PoolQuery::Dynamic, "other", &"x".repeat(65))
        .expect_err("too long");
    assert_eq!(error.status(), Status::InvalidArgument);
}

#[test]
fn a_buffer_that_is_lent_for_reading_is_not_written() {
    let (runtime, client) = start();
    let mut buffer = runtime.allocate_buffer(64).expect("a buffer");
    buffer.fill(7);
    buffer[0] = 1;
    for method in [Method::Reverse, Method::Greet] {
        let call = Call {
            pool: PoolId::new(9000, 0),
            instance: 0,
            query: PoolQuery::Local,
            method: method as u16,
            arguments: [0; 3],
        };
        let error = runtime
            .call_sending(&call, (&buffer).into())
            .expect_err("is not written");
        assert_eq!(error.status(), Status::InvalidBuffer);
    }
    assert_eq!((buffer[0], buffer[63]), (1, 7));
    client.reverse(&mut buffer).expect("is lent for writing");
    assert_eq!((buffer[0], buffer[63]), (7, 1));
}
