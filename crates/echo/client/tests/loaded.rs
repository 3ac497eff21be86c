//! The echo module as a daemon has it: a library, found by name in a plugin folder.

use std::path::Path;

use chimaera_echo_client::{Client, PoolId, PoolQuery, Runtime};
use chimaera_echo_proto::MODULE_NAME;

#[test]
fn the_library_is_loaded_by_the_modules_name() {
    // A library that a test depends on lies beside the test.
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().expect("it lies in a folder");
    let embed = Runtime::embed().plugin_folder(folder).workers(1);
    let runtime = embed.start().expect("the host starts");
    let client = Client::new(&runtime, PoolId::new(9000, 0));
    client
        .create(PoolQuery::Dynamic, "a pool", "hello")
        .expect("the library is found and can be used");
    assert_eq!(client.echo(7).expect("comes back"), 7);
    let status = runtime.admin().status().expect("a status");
    let module = status
        .modules
        .iter()
        .find(|module| module.name == MODULE_NAME);
    let library = module.and_then(|module| module.library.as_deref());
    let expected = folder.join(format!("lib{MODULE_NAME}_runtime.so"));
    assert_eq!(library.map(Path::new), Some(&*expected));
}
