//! Set elements: how interface names and subnets are spelled as keys.

use std::net::IpAddr;

use api::id::IfName;
use ipnet::IpNet;

/// `IFNAMSIZ`.
const NAME: usize = 16;

pub(super) fn name_key(name: &IfName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

/// The concatenation of a name with itself: a pair of input and output.
pub(super) fn pair_key(name: &IfName) -> Vec<u8> {
    [name_key(name), name_key(name)].concat()
}

pub(super) fn name_of(key: &[u8]) -> Option<IfName> {
    let end = key.iter().take(NAME).position(|b| *b == 0)?;
    IfName::parse(std::str::from_utf8(&key[..end]).ok()?).ok()
}

/// First address, and the one after the last: absent where the subnet ends with the family.
pub(super) fn interval(subnet: IpNet) -> (Vec<u8>, Option<Vec<u8>>) {
    let end = match subnet.broadcast() {
        IpAddr::V4(last) => last
            .to_bits()
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
        IpAddr::V6(last) => last
            .to_bits()
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
    };
    let start = match subnet.network() {
        IpAddr::V4(first) => first.octets().to_vec(),
        IpAddr::V6(first) => first.octets().to_vec(),
    };
    (start, end)
}

/// The subnet from `start` to just before `end`, if it is one.
pub(super) fn subnet(start: &[u8], end: Option<&[u8]>) -> Option<IpNet> {
    let number = |key: &[u8]| -> Option<u128> {
        Some(match key.len() {
            4 => u128::from(u32::from_be_bytes(key.try_into().ok()?)),
            16 => u128::from_be_bytes(key.try_into().ok()?),
            _ => return None,
        })
    };
    let bits: u32 = if start.len() == 4 { 32 } else { 128 };
    let first = number(start)?;
    let size_bits = match end {
        Some(end) => {
            let size = number(end)?.checked_sub(first)?;
            size.is_power_of_two().then(|| size.trailing_zeros())?
        }
        None => first.trailing_zeros().min(bits),
    };
    let prefix = u8::try_from(bits.checked_sub(size_bits)?).ok()?;
    let address: IpAddr = match start.len() {
        4 => <[u8; 4]>::try_from(start).ok()?.into(),
        _ => <[u8; 16]>::try_from(start).ok()?.into(),
    };
    IpNet::new(address, prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_survive_the_round_trip() {
        for text in [
            "10.0.0.0/8",
            "172.17.0.0/16",
            "192.168.255.252/30",
            "fd00::/64",
        ] {
            let given: IpNet = text.parse().unwrap();
            let (start, end) = interval(given);
            assert_eq!(subnet(&start, end.as_deref()), Some(given));
        }
        assert_eq!(subnet(&[10, 0, 0, 0], Some(&[10, 0, 0, 3])), None);
    }
}
