//! FindCoordinator: it is always this broker, once `__consumer_offsets` exists.

use super::{Node, once};
use kappa_protocol::messages::find_coordinator_response::Coordinator;
use kappa_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource, Response};
use std::sync::Arc;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// From this version on, several keys are asked for at once.
const BATCHED: i16 = 4;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: FindCoordinatorRequest) -> Reply {
    let (version, key_type) = (cx.version, request.key_type);
    let keys = if version >= BATCHED { request.coordinator_keys } else { vec![request.key] };
    let keys = once(keys, |key| (0, key.as_str()));
    let refusals: Vec<(String, Option<Refusal>)> = keys
        .into_iter()
        .map(|key| {
            let refusal = refuse(cx, key_type, &key);
            (key, refusal)
        })
        .collect();
    if node.groups.is_ready() || refusals.iter().all(|(_, refusal)| refusal.is_some()) {
        return Reply::Now(respond(node, version, refusals));
    }
    let (node, ready) = (node.clone(), node.groups.ready());
    Reply::later(async move {
        let mut refusals = refusals;
        if let Err(error) = ready.await {
            tracing::warn!(%error, "no group coordinator yet");
            let unavailable = (ErrorCode::CoordinatorNotAvailable, error.to_string());
            refusals.iter_mut().for_each(|(_, refusal)| *refusal = Some(unavailable.clone()));
        }
        respond(&node, version, refusals)
    })
}

type Refusal = (ErrorCode, String);

fn refuse(cx: &Context, key_type: i8, key: &str) -> Option<Refusal> {
    match key_type {
        GROUP if cx.allows(Operation::Describe, Resource::Group(key)) => None,
        GROUP => Some((ErrorCode::GroupAuthorizationFailed, format!("group {key} may not be described"))),
        TRANSACTION => Some((
            ErrorCode::UnsupportedVersion,
            "transactions are not supported by this broker: unset transactional.id".to_owned(),
        )),
        _ => Some((ErrorCode::InvalidRequest, format!("there are no coordinators of type {key_type}"))),
    }
}

fn respond(node: &Node, version: i16, refusals: Vec<(String, Option<Refusal>)>) -> Response {
    let coordinators = refusals.into_iter().map(|(key, refusal)| coordinator(node, key, refusal));
    let response = if version >= BATCHED {
        FindCoordinatorResponse { coordinators: coordinators.collect(), ..FindCoordinatorResponse::default() }
    } else {
        let Coordinator { node_id, host, port, error_code, error_message, .. } =
            coordinators.last().unwrap_or_default();
        FindCoordinatorResponse {
            error_code,
            error_message,
            node_id,
            host,
            port,
            ..FindCoordinatorResponse::default()
        }
    };
    response.into()
}

fn coordinator(node: &Node, key: String, refusal: Option<Refusal>) -> Coordinator {
    match refusal {
        None => {
            let advertised = node.advertised();
            Coordinator {
                key,
                node_id: node.id(),
                host: advertised.host.to_string(),
                port: advertised.port.into(),
                error_code: ErrorCode::None.code(),
                error_message: None,
            }
        }
        Some((code, message)) => Coordinator {
            key,
            node_id: -1,
            host: String::new(),
            port: -1,
            error_code: node.error(code),
            error_message: Some(message),
        },
    }
}
