//! Limits of one caller.

/// Limits of the operations, all configurable.
#[derive(Clone, Debug)]
pub struct OperationLimits {
    /// Bytes of a value. Default 1 MiB.
    pub value_bytes: usize,
    /// Requests of one principal in flight on this node. Default 512.
    pub in_flight_per_principal: usize,
    /// Requests of one principal per second on this node. Default 10,000.
    pub requests_per_second_per_principal: u32,
    /// Refusals of one principal that get a record of their own, per ten seconds. What is beyond
    /// shares one record with a count. Default 10.
    pub refusal_records_per_ten_seconds: u32,
}

impl Default for OperationLimits {
    fn default() -> Self {
        Self {
            value_bytes: 1024 * 1024,
            in_flight_per_principal: 512,
            requests_per_second_per_principal: 10_000,
            refusal_records_per_ten_seconds: 10,
        }
    }
}
