//! Clients, response by response.
