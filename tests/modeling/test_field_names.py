from any2point_hf.modeling.configuration_any2point import METHOD_FIELDS, Any2PointConfig
from any2point_hf.modeling.field_names import OF_BACKBONE, meant_name, method_fields


def test_the_fields_read_from_the_source_are_those_of_the_class():
    assert method_fields() == METHOD_FIELDS
    assert {*METHOD_FIELDS, *OF_BACKBONE} <= {*Any2PointConfig.__dataclass_fields__}


def test_a_meant_field_is_a_close_one_or_what_others_call_it():
    assert meant_name("adapter_dmi", method_fields()) == " Did you mean adapter_dim?"
    assert meant_name("in_channels", method_fields()) == " Did you mean num_point_features?"
    assert meant_name("zzz", method_fields()) == ""
