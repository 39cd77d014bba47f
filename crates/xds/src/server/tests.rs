//! Sessions, request by request.
