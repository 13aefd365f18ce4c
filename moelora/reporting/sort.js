// Sorts a table by the column whose heading is pressed: upwards, downwards, then as it was made.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], made = [...body.rows];
  const read = (row, i) => row.cells[i].textContent.trim().replace(/\u2212/g, "-");
  const compare = (a, b) => {
    const x = parseFloat(a.replace(/,/g, "")), y = parseFloat(b.replace(/,/g, ""));
    if (isNaN(x) && isNaN(y)) return a.localeCompare(b, "en");
    return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
  };
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, i) => {
    head.querySelector("button").onclick = () => {
      const order = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort || "none"];
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = order;
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? made : [...made].sort((a, b) => sign * compare(read(a, i), read(b, i)));
      body.append(...rows);
    };
  });
}
// A link may lead into a folded part.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target && target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  if (target) target.scrollIntoView({ block: "center" });
};
addEventListener("hashchange", unfold);
unfold();
