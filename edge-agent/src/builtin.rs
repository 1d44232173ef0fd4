//! The one file that names the built-in connectors.

use crate::registry::ConnectorRegistry;

pub(crate) fn register(registry: &mut ConnectorRegistry) {
    registry.register::<edgeway_http_service::HttpServiceFactory>();
    registry.register::<edgeway_tcp_service::TcpServiceFactory>();
    registry.register::<edgeway_echo::EchoConnectorFactory>();
}
