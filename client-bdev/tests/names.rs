//! A program that depends on this crate alone can name every type in its public signatures.

use chimaera_bdev_client::{
    AdminClient, Buffer, Call, ChangingPool, Client, CreateOptions, CreateParams, Error, Failure,
    Finished, GetOrCreatePool, LogLine, LogStatus, ParsePoolIdError, PartError, PoolId, PoolInfo,
    PoolKey, PoolList, PoolQuery, PoolStep, Runtime, RuntimeStatus, Severity, Status, Task,
    TaskError, Values,
};

type Submit =
    fn(&Runtime, Call, Option<Buffer>, fn(Finished<'_>) -> Result<u64, TaskError>) -> Task<u64>;

/// What an application might write around the signatures: it compiles, which is the promise.
#[test]
fn every_type_of_a_signature_has_a_name_here() {
    let _create: fn(&AdminClient, PoolQuery, &GetOrCreatePool) -> Result<PoolInfo, Error> =
        AdminClient::get_or_create_pool;
    let _page: fn(&AdminClient, Option<PoolKey>) -> Result<PoolList, Error> =
        AdminClient::pool_page;
    let _call: fn(&Runtime, &Call) -> Result<Values, Error> = Runtime::call;
    let _submit: Submit = Runtime::submit;
    let _failed_part: fn(&PartError) -> Failure = PartError::failure;
    let parameters: fn(&CreateOptions) -> &CreateParams = CreateOptions::params;
    assert_eq!(parameters(&CreateOptions::ram(4096)).total_size, 4096);
    let parsed: Result<PoolId, ParsePoolIdError> = "8000".parse();
    assert!(parsed.is_err());
}

/// What is in the fields of a status.
#[test]
fn the_fields_of_a_status_have_names_here() {
    let runtime = chimaera_bdev_client::embed().start().expect("it starts");
    let status: RuntimeStatus = runtime.admin().status().expect("a status");
    let log: &LogStatus = &status.log;
    let severities: Vec<Severity> = log
        .recent
        .iter()
        .map(|line: &LogLine| line.severity)
        .collect();
    assert_eq!(severities.len(), log.recent.len());
    let steps: Vec<PoolStep> = status
        .changing
        .iter()
        .map(|pool: &ChangingPool| pool.step)
        .collect();
    assert_eq!(steps.len(), status.changing.len());
    let client = Client::new(&runtime, PoolId::new(8000, 0));
    let error = client.get_stats().expect_err("no pool");
    assert_eq!(error.status(), Status::PoolNotFound);
}
