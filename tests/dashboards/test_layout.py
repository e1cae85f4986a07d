from dash.development.base_component import Component

from dashboards.layout import SLIDERS, TABLE_FILTERS, index_page, page


def ids(component):
    found = [getattr(component, "id", None)] if isinstance(component, Component) else []
    children = getattr(component, "children", None)
    for child in children if isinstance(children, list | tuple) else [children]:
        if isinstance(child, Component):
            found += ids(child)
    return [name for name in found if name]


def test_every_id_is_on_the_page_once():
    found = ids(page(["a", "b"], "sqlite:///x.db"))
    assert len(found) == len(set(found))
    wanted = {"study", "front", "trial", "compare", "tab", "table", "csv", "live", "problem"}
    assert wanted <= set(found)
    assert {f"limit-{name}" for name, _ in SLIDERS} <= set(found)
    assert "all" in TABLE_FILTERS


def test_the_document_loads_nothing_from_elsewhere_and_knows_its_language():
    text = index_page()
    assert 'lang="en"' in text
    assert "http" not in text
    assert all(part in text for part in ("{%app_entry%}", "{%config%}", "{%scripts%}"))
