//! temp
use crate::Location;
/// t
pub struct RecordCache;
impl RecordCache { 
/// t
pub fn new(_c: usize)->Self{RecordCache}
/// t
pub fn insert_parts(&mut self,_at: Location,_p:&[&[u8]]){}
/// t
pub fn get(&mut self,_at: Location)->Option<&[u8]>{None}
/// t
pub fn capacity(&self)->usize{0}
/// t
pub fn set_capacity(&mut self,_c:usize){}
/// t
pub fn bytes(&self)->usize{0}
/// t
pub fn hits(&self)->u64{0}
/// t
pub fn misses(&self)->u64{0}
}
