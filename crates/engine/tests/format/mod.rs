//! The format of a case, read as strictly as any resource.

use transept_model::object;
use transept_model::schema::Labels;

object! {
    /// Resources, and requests with what must become of them.
    pub struct Case {
        /// One sentence: what is shown.
        name: String;
        /// The configuration, as in a file.
        resources: String;
        /// The workload in whose place requests are asked about; without it, those of the Gateways.
        station: Option<Place>;
        /// Parts of the sentences about what is wrong with the resources; every problem must be named.
        problems: Vec<String>;
        /// The requests.
        requests: Vec<Exchange>;
    }
}

object! {
    /// A workload: its way in and its way to other Services.
    pub struct Place {
        /// Its namespace.
        namespace: String = "default".to_owned();
        /// The Services that it serves.
        services: Vec<String>;
        /// The ports of its program.
        ports: Vec<Port>;
    }
}

object! {
    /// A port of a program.
    pub struct Port {
        /// The port of the Service.
        port: u16;
        /// The port that the program listens on.
        target_port: u16;
        /// What it speaks.
        app_protocol: Option<String>;
    }
}

object! {
    /// One request with its expectation.
    pub struct Exchange {
        /// What is sent.
        send: Send;
        /// What must become of it. What is not written is not compared.
        expect: Expect;
    }
}

object! {
    /// A request.
    pub struct Send {
        /// The method.
        method: String = "GET".to_owned();
        /// Scheme, host, port, path and query.
        url: String;
        /// Header fields by name.
        headers: Labels;
        /// Header fields as lines, for several with one name.
        lines: Vec<String>;
        /// The address the connection comes from.
        client: String = "192.0.2.1".to_owned();
        /// The verified SPIFFE id of the client.
        identity: Option<String>;
        /// The TLS server name, when it is not the host of the URL.
        server_name: Option<String>;
        /// What the backend is assumed to answer; without it 200 without fields.
        answer: Option<Answer>;
    }
}

object! {
    /// A backend's response.
    pub struct Answer {
        /// The status code.
        status: u16 = 200;
        /// Header fields by name.
        headers: Labels;
    }
}

object! {
    /// What must become of a request.
    pub struct Expect {
        /// The status code that the client gets.
        status: Option<u16>;
        /// The code of the gateway's own reply.
        code: Option<String>;
        /// The listener: `namespace/gateway/listener`.
        listener: Option<String>;
        /// The route: `namespace/name`.
        route: Option<String>;
        /// The rule: `namespace/route/rule`, by name or by position.
        rule: Option<String>;
        /// The backend: `namespace/name:port`.
        backend: Option<String>;
        /// Backends with their weights.
        backends: Labels;
        /// The addresses of the backend.
        endpoints: Option<Vec<String>>;
        /// The address that a hash of the request finds.
        endpoint: Option<String>;
        /// The policy that says how an endpoint is chosen: `Kind namespace/name`.
        traffic: Option<String>;
        /// Parts of what it says.
        traffic_says: Vec<String>;
        /// The path that is forwarded.
        path: Option<String>;
        /// Path and query that are forwarded.
        target: Option<String>;
        /// The host that is forwarded.
        host: Option<String>;
        /// The client's address as policies see it.
        client: Option<String>;
        /// Header fields that are forwarded; several lines joined by a comma.
        headers: Labels;
        /// Header fields that are not forwarded.
        absent_headers: Vec<String>;
        /// Header fields of the response that the client gets.
        response_headers: Labels;
        /// Header fields that the client does not get.
        absent_response_headers: Vec<String>;
        /// The policies in force, in their order: `Kind namespace/name`.
        policies: Option<Vec<String>>;
        /// The policy that answered: `Kind namespace/name`.
        answered_by: Option<String>;
        /// What the log says about who refused.
        cause: Option<String>;
        /// Where the tunnels to the endpoints lead: `address identity`.
        tunnels: Option<Vec<String>>;
        /// Where copies go.
        mirrors: Option<Vec<String>>;
        /// Rules that lost, with a part of the reason.
        lost: Labels;
    }
}
