//! Keys to slots: CRC16 with hash tags, as Redis Cluster has it.
